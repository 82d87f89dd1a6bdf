"""Fine-tune language models on patients' table rows and judge the result as a clinical journal
would."""

from importlib.metadata import version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cardiotune.risk_model import RiskModel

__version__ = version("cardiotune")
__all__ = ["RiskModel", "__version__"]


def __getattr__(name: str) -> Any:
    """`from cardiotune import RiskModel` loads torch and the rest when it is asked for, and not
    before."""
    if name == "RiskModel":
        from cardiotune.risk_model import RiskModel

        return RiskModel
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
