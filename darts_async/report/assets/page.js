// Draws the figures of the page, and draws them again in the other colours when the system's theme changes.
(() => {
  "use strict";
  const drawn = JSON.parse(document.getElementById("drawn").textContent);
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const coarse = matchMedia("(pointer: coarse)");
  const NARROW = 520;
  const NAME_PX = 13; // that a name more in the legend takes from the plot

  // A copy in which the names of colours are the colours of the theme.
  const painted = (value, colours) => {
    if (typeof value === "string") return Object.hasOwn(colours, value) ? colours[value] : value;
    if (Array.isArray(value)) return value.map((item) => painted(item, colours));
    if (value === null || typeof value !== "object") return value;
    return Object.fromEntries(Object.entries(value).map(([key, item]) => [key, painted(item, colours)]));
  };

  const fitted = (figure, width, height) => {
    const layout = figure.layout;
    layout.autosize = true;
    if (coarse.matches) layout.dragmode = false;
    if (width < NARROW) {
      layout.font.size = 11;
      layout.margin = { ...layout.margin, l: Math.min(layout.margin.l, 40), r: Math.min(layout.margin.r, 40) };
      const names = new Set(figure.data.filter((trace) => trace.showlegend !== false).map((trace) => trace.name));
      if (layout.showlegend) layout.height = height + NAME_PX * Math.max(0, names.size - 3);
      for (const trace of figure.data) if (trace.textfont) trace.textfont.size = 11;
    }
    return figure;
  };

  const draw = (node) => {
    const colours = dark.matches ? drawn.dark : drawn.light;
    const height = Number(node.dataset.height);
    const figure = fitted(painted(drawn.figures[node.dataset.chart], colours), node.clientWidth, height);
    node.style.height = `${figure.layout.height ?? height}px`;
    return Plotly.react(node, figure.data, figure.layout, { responsive: true, displayModeBar: false });
  };

  const drawAll = async () => {
    for (const node of document.querySelectorAll(".plot")) {
      try {
        await draw(node);
      } catch (error) {
        console.error(`${node.dataset.chart}: ${error}`);
        node.textContent = "This chart could not be drawn; the words below say what it shows.";
        node.classList.add("failed");
        node.style.height = "auto";
      }
    }
    document.documentElement.dataset.drawn = dark.matches ? "dark" : "light";
  };

  let last = drawAll();
  dark.addEventListener("change", () => {
    last = last.then(drawAll);
  });
})();
