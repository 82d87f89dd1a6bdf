"""Fine-tune language models on patients' table rows and judge the result as a clinical journal would."""

from importlib.metadata import version

__version__ = version("cardiotune")
