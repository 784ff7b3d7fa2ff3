"""The colours of both themes, by the names that figures use.

Series colours are close to those of Okabe and Ito, which people with the common colour blindnesses tell apart; on the
dark ground lighter ones in the same order. Every one has a contrast of 3 or more with its ground, ink of 7 or more.
"""

from __future__ import annotations

from typing import Final

__all__ = ["DARK", "LIGHT", "contrast"]


def _theme(base: dict[str, str], series: tuple[str, ...]) -> dict[str, str]:
    named = {f"@{name}": colour for name, colour in base.items()}
    named |= {f"@s{index}": colour for index, colour in enumerate(series)}
    soft = {f"{name}-soft": _translucent(named[name]) for name in (*(f"@s{i}" for i in range(8)), "@good", "@bad")}
    return named | soft


def _translucent(colour: str, opacity: float = 0.3) -> str:
    red, green, blue = _channels(colour)
    return f"rgba({red},{green},{blue},{opacity})"


def _channels(colour: str) -> tuple[int, int, int]:
    return int(colour[1:3], 16), int(colour[3:5], 16), int(colour[5:7], 16)


def contrast(one: str, other: str) -> float:
    """The contrast of two colours, 1 to 21, as the accessibility guidelines of the web (WCAG 2) define it."""

    def luminance(colour: str) -> float:
        linear = []
        for channel in _channels(colour):
            share = channel / 255
            linear.append(share / 12.92 if share <= 0.04045 else ((share + 0.055) / 1.055) ** 2.4)
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    light, dark = sorted((luminance(one), luminance(other)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


LIGHT: Final = _theme(
    {
        "page": "#f5f6f8",
        "card": "#ffffff",
        "ink": "#1b1f24",
        "muted": "#59636e",
        "grid": "#e4e7eb",
        "line": "#c5cbd3",
        "flow": "#d5dbe3",
        "good": "#007a5a",
        "bad": "#b3261e",
        "link": "#0060a8",
    },
    ("#0072b2", "#d55e00", "#008a66", "#b5548f", "#a87500", "#2b87b8", "#5c4ba3", "#6b7480"),
)
DARK: Final = _theme(
    {
        "page": "#0f1317",
        "card": "#181d23",
        "ink": "#e8ebef",
        "muted": "#a3adb8",
        "grid": "#2b323a",
        "line": "#48525e",
        "flow": "#3a434d",
        "good": "#3ecf9f",
        "bad": "#ff7b72",
        "link": "#7cc4ff",
    },
    ("#56b4e9", "#ff8f40", "#2fd0a0", "#e79bc7", "#f0c040", "#9ad4f5", "#a99bf0", "#9aa5b1"),
)
