"""The check finds each way to a pickle, under any alias, and leaves what is harmless alone."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

TOOL = Path(__file__).resolve().parents[3] / "tools" / "check_no_pickle.py"
sys.path.insert(0, str(TOOL.parent))

import check_no_pickle  # noqa: E402 - it lies beside the package, not in it

BAD = [
    "import pickle",
    "import pickle as json",
    "from pickle import loads",
    "import os, marshal",
    "import shelve",
    "import dill",
    "import cloudpickle.cloudpickle",
    "from joblib import load",
    "def f():\n    import _pickle",
    "try:\n    import cPickle\nexcept ImportError:\n    pass",
    "import importlib\nimportlib.import_module('pickle')",
    "__import__('marshal')",
    "from importlib import import_module\nimport_module('shelve')",
    "import torch\ntorch.load('x')",
    "import torch\ntorch.load('x', weights_only=False)",
    "import torch as t\nt.load('x', None)",
    "from torch import load as read\nread('x')",
    "import torch\ntorch.load('x', weights_only=flag)",
    "import torch\ntorch.save({}, 'x')",
    "from torch import save\nsave({}, 'x')",
    "import torch.distributed as dist\ndist.all_gather_object([], 1)",
    "import torch.distributed as dist\ndist.broadcast_object_list([])",
    "from torch.distributed import gather_object",
    "import torch.distributed.rpc",
    "from torch.distributed import rpc",
    "socket.send_pyobj({})",
    "self.socket.recv_pyobj()",
    "sockets[0].recv_pyobj()",
    "import numpy as np\nnp.load('x', allow_pickle=True)",
    "import numpy as np\nnp.load('x', allow_pickle=flag)",
    "import pandas as pd\npd.read_pickle('x')",
    "import yaml\nyaml.load(text)",
    "import yaml\nyaml.load(text, Loader=yaml.Loader)",
    "import yaml\nyaml.load(text, yaml.FullLoader)",
    "import yaml\nyaml.unsafe_load(text)",
    "from yaml import full_load\nfull_load(text)",
    "import multiprocessing\nmultiprocessing.Queue()",
    "import multiprocessing as mp\nmp.get_context('spawn')",
    "from multiprocessing import Pipe",
    "from multiprocessing.connection import Client",
    "import multiprocessing.managers",
    "from concurrent.futures import ProcessPoolExecutor",
    "import concurrent.futures\nconcurrent.futures.ProcessPoolExecutor()",
    "import logging.handlers\nlogging.handlers.SocketHandler('h', 1)",
    "eval('1')",
    "exec('x = 1')",
    "AutoModel.from_pretrained('x', trust_remote_code=True)",
]
GOOD = [
    "'import pickle'\n# import pickle\nnever_pickle = 1",
    "import torch\ntorch.load('x', weights_only=True)",
    "import json\njson.load(file)",
    "import yaml\nyaml.safe_load(text)",
    "import yaml\nyaml.load(text, Loader=yaml.SafeLoader)",
    "from yaml import load, CSafeLoader\nload(text, CSafeLoader)",
    "import numpy as np\nnp.load('x', allow_pickle=False)\nnp.save('x', a)",
    "import multiprocessing\nmultiprocessing.active_children()\nfrom multiprocessing.process import BaseProcess",
    "from concurrent.futures import ThreadPoolExecutor",
    "model.eval()\nself.trainer.save('x')",
    "from safetensors.torch import load, save\nload(b'')\nsave({})",
    "import importlib\nimportlib.import_module('json')\nimportlib.import_module(name)",
    "AutoModel.from_pretrained('x', trust_remote_code=False)",
    "from .pickle import jar",
]


@pytest.mark.parametrize("source", BAD)
def test_a_way_to_a_pickle_is_found(source: str) -> None:
    found = check_no_pickle.findings(source)
    assert found and all(1 <= line <= source.count("\n") + 1 and what for line, what in found)


@pytest.mark.parametrize("source", GOOD)
def test_what_is_harmless_passes(source: str) -> None:
    assert check_no_pickle.findings(source) == []


def test_this_project_passes_and_a_bad_file_fails(tmp_path: Path) -> None:
    assert check_no_pickle.main([]) == 0
    (tmp_path / "fine.py").write_text("x = 1")
    (tmp_path / "bad.py").write_text("x = 1\nimport pickle\n")
    run = subprocess.run([sys.executable, TOOL, tmp_path], capture_output=True, text=True, check=False)
    assert (run.returncode, run.stdout) == (1, f"{tmp_path}/bad.py:2: import of pickle\n2 files, 1 findings\n")
