"""A run's model as one ONNX graph, head included: token ids in, logits out; and scoring with it."""

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from cardiotune.data.tokens import TokenRows
from cardiotune.errors import ConfigError, ModelError
from cardiotune.settings import Config
from cardiotune.training.heads import RiskNetwork
from cardiotune.training.packing import Batch, by_token_budget, lay_out

FILE = "model.onnx"
INSTALL = "pip install 'cardiotune[onnx]'"
LARGEST = 2_000_000_000
"""Weights of a decoder: ONNX is for encoders and small decoders; a larger one belongs into a GGUF
or a GPU server."""


def check(config: Config) -> None:
    """ConfigError when the packages are not here."""
    try:
        import onnxruntime  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError:
        raise ConfigError(f"--to onnx needs onnx, onnxruntime and onnxscript: {INSTALL}") from None


class _Padded(torch.nn.Module):
    """The network with plain tensors as its input: input_ids and attention_mask (rows, tokens),
    padded on the right."""

    def __init__(self, network: RiskNetwork) -> None:
        super().__init__()
        self.network = network

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        """(rows,) logits of the outcome."""
        rows = torch.arange(input_ids.shape[0])
        positions = (attention_mask.cumsum(1) - 1) * attention_mask
        last = attention_mask.sum(1) - 1
        logits: torch.Tensor = self.network(Batch(input_ids, positions, attention_mask, rows, last, positions))
        return logits


def write(network: RiskNetwork, sample: list[list[int]], pad_id: int, file: Path) -> None:
    """Trace the network on a sample of prompts of different lengths and write the graph, weights
    beside it when they are large.

    Raises ConfigError for a decoder that is too large, ModelError when the exporter cannot follow
    the model's code.
    """
    size = sum(weight.numel() for weight in network.parameters())
    if size > LARGEST:
        raise ConfigError(f"--to onnx: the model has {size / 1e9:.1f} billion weights; use merged or gguf")
    network.trunk.config._attn_implementation = "eager"  # a graph knows nothing of trees
    batch = lay_out(sample, pad_id, "padded")
    shape = {0: torch.export.Dim("rows"), 1: torch.export.Dim("tokens")}
    try:
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")
            torch.onnx.export(
                _Padded(network).eval(),
                (batch.input_ids, batch.attention),
                str(file),
                input_names=["input_ids", "attention_mask"],
                output_names=["logits"],
                dynamic_shapes=(shape, shape),
                dynamo=True,
                verbose=False,
            )
    except torch.onnx.errors.OnnxExporterError as error:
        kind = type(error.__cause__ or error).__name__
        raise ModelError(f"--to onnx: the exporter cannot follow this model ({kind}); use merged or gguf") from None


class OnnxModel:
    """Prompts -> logits, by onnxruntime on the CPU."""

    def __init__(self, folder: Path, pad_id: int, batch_tokens: int, threads: int | None) -> None:
        check_installed()
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads or 0
        options.log_severity_level = 3
        self._session: Any = onnxruntime.InferenceSession(
            str(folder / FILE), options, providers=["CPUExecutionProvider"]
        )
        self._pad_id = pad_id
        self._budget = batch_tokens

    def logits(self, prompts: TokenRows) -> NDArray[np.float64]:
        """(rows,) logits in the order of the prompts."""
        found = np.empty(len(prompts))
        for rows in by_token_budget(prompts, self._budget, "padded"):
            batch = lay_out([prompts[row] for row in rows], self._pad_id, "padded")
            given = {"input_ids": batch.input_ids.numpy(), "attention_mask": batch.attention.numpy()}
            found[rows] = self._session.run(None, given)[0]
        return found


def check_installed() -> None:
    """ModelError when an ONNX export cannot be opened here."""
    try:
        import onnxruntime  # noqa: F401
    except ImportError:
        raise ModelError(f"an ONNX export needs onnxruntime: {INSTALL}") from None
