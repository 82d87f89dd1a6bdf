"""Gemma 3 270M and SmolLM2-135M as shipped: found, converted once, scored, and saved so that stock
PEFT agrees.

Skipped, with the reason, where the packages are not installed.
"""

from pathlib import Path

import numpy as np
import pytest
import torch

from cardiotune.config import load_config, load_model, shipped
from cardiotune.data.tokens import PromptEncoder
from cardiotune.errors import ConfigError, ModelError
from cardiotune.training import model as building
from cardiotune.training.checkpoint import save_weights, trained_state
from cardiotune.training.heads import LabelTokenNetwork
from cardiotune.training.scoring import Batching, score
from cardiotune.training.weights import find_weights

CPU = torch.device("cpu")
pytestmark = pytest.mark.real_model


def weights_of(name: str) -> Path:
    try:
        return find_weights(load_model(shipped("models")[name]))
    except ModelError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="module", params=["gemma3-270m", "smollm2-135m"])
def loaded(request: pytest.FixtureRequest) -> tuple[Path, LabelTokenNetwork, PromptEncoder]:
    folder = weights_of(request.param)
    config = load_config("statlog_heart", [f"use.model={request.param}"])
    encoder = building.build_encoder(config, folder)
    base = building.load_base(folder, config, torch.float32, CPU)
    return folder, LabelTokenNetwork(base, encoder.label_tokens("Yes", "No")), encoder


def test_the_model_knows_language(loaded: tuple[Path, LabelTokenNetwork, PromptEncoder]) -> None:
    """A wrong conversion gives a model that loads and talks nonsense."""
    _, model, encoder = loaded
    ids = encoder.tokenizer("The heart pumps blood through the body. The capital of France is", return_tensors="pt")[
        "input_ids"
    ]
    with torch.no_grad():
        best = model.base(input_ids=ids).logits[0, -1].argmax()
    assert encoder.tokenizer.decode(best).strip() == "Paris"


def test_the_positive_label_is_the_positive_token(loaded: tuple[Path, LabelTokenNetwork, PromptEncoder]) -> None:
    _, model, encoder = loaded
    assert encoder.tokenizer.decode([model.labels.positive]).strip() == "Yes"
    assert encoder.tokenizer.decode([model.labels.negative]).strip() == "No"
    # After three patients who were all answered Yes, Yes must be likelier than after three who were
    # all answered No.
    logits = []
    for answer in ("Yes", "No"):
        shown = encoder.with_examples([(f"age {age} years", answer) for age in (44, 57, 63)])
        logits.append(score(model, shown.encode(["age 51 years"]), Batching(0, 512, CPU, model.layout))[0])
    yes, no = logits
    assert yes > no


def test_the_tree_is_exact_on_the_real_model(loaded: tuple[Path, LabelTokenNetwork, PromptEncoder]) -> None:
    _, model, encoder = loaded
    texts = [f"age {age} years, sex {sex}, chest pain none" for age in (48, 61, 75) for sex in ("woman", "man")]
    prompts = encoder.encode(texts)
    together = score(model, prompts, Batching(0, 4096, CPU, model.layout))
    alone = np.concatenate([score(model, [prompt], Batching(0, 4096, CPU, model.layout)) for prompt in prompts])
    np.testing.assert_allclose(1 / (1 + np.exp(-together)), 1 / (1 + np.exp(-alone)), atol=1e-5)


def test_labels_of_several_tokens_are_refused(loaded: tuple[Path, LabelTokenNetwork, PromptEncoder]) -> None:
    with pytest.raises(ConfigError, match="tokens for this model"):
        loaded[2].label_tokens("cardiomyopathically", "No")
    with pytest.raises(ConfigError, match="same token"):
        loaded[2].label_tokens("Yes", "Yes")


def test_stock_peft_gives_the_same_logits(
    loaded: tuple[Path, LabelTokenNetwork, PromptEncoder], tmp_path: Path
) -> None:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    folder, model, encoder = loaded
    torch.manual_seed(0)
    config = load_config("statlog_heart")
    tuned = building.build(building.load_base(folder, config, torch.float32, CPU), config, encoder)
    with torch.no_grad():  # adapters start at zero effect; give them one
        for weight in tuned.parameters():
            if weight.requires_grad:
                weight.add_(torch.randn_like(weight) * 0.01)
    prompts = encoder.encode(["age 61 years, sex man", "age 40 years, sex woman, chest pain none"])
    ours = score(tuned, prompts, Batching(0, 512, CPU, model.layout))
    assert np.abs(ours - score(model, prompts, Batching(0, 512, CPU, model.layout))).max() > 0.01
    (tmp_path / "adapter").mkdir()
    save_weights(tuned, trained_state(tuned), tmp_path / "adapter")
    plain = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    stock = PeftModel.from_pretrained(plain, tmp_path / "adapter").eval()
    with torch.no_grad():
        logits = torch.cat([stock(input_ids=torch.tensor([prompt])).logits[:, -1] for prompt in prompts])
    labels = model.labels
    np.testing.assert_allclose(ours, (logits[:, labels.positive] - logits[:, labels.negative]).numpy(), atol=1e-4)
