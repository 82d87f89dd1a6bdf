"""The other sides of the comparison, by the public APIs as their users would: Trainer with PEFT,
and TRL's SFTTrainer.

Both read the same prompts as ours, whole: the instruction, the patient, the question.
"""

import math
from typing import Any

import numpy as np
import torch
from peft import LoraConfig, get_peft_model
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    DataCollatorWithPadding,
    Trainer,
    TrainingArguments,
)

from cardiotune.training.train import validation_metrics

CHAT_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}<start_of_turn>{{ 'model' if message.role == 'assistant' else message.role }}\n"
    "{{ message.content }}<end_of_turn>\n{% endfor %}{% if add_generation_prompt %}<start_of_turn>model\n{% endif %}"
)
"""Gemma's turns, for a base model, which comes without a template."""


def train(job: dict[str, Any]) -> dict[str, Any]:
    """Fine-tune on the job's training rows, then judge the validation rows."""
    side = _side(job)
    side.train(job["train"]["texts"], job["train"]["events"])
    found = validation_metrics(np.array(job["validation"]["events"]), side.logits(job["validation"]["texts"]))
    return {"dtype": side.dtype, "validation": {name: found[name] for name in ("log_loss", "auroc")}}


def Scorer(job: dict[str, Any]) -> "Classification | Chat":  # noqa: N802 - as ours, which is a class
    """Whole prompts -> logits."""
    return _side(job)


def _side(job: dict[str, Any]) -> "Classification | Chat":
    kind, _, dtype = job["contender"].partition("_")
    return (Classification if kind == "trainer" else Chat)(job, dtype or "float32")


def _lora(job: dict[str, Any], task_type: str) -> LoraConfig:
    lora = job["lora"]
    return LoraConfig(
        task_type=task_type,
        r=lora["r"],
        lora_alpha=lora["alpha"],
        lora_dropout=lora["dropout"],
        target_modules=lora["target_modules"],
    )


def _arguments(job: dict[str, Any]) -> dict[str, Any]:
    """The recipe of the experiment in the words of TrainingArguments; everything else as it
    comes."""
    recipe, steps = job["recipe"], job["steps"]
    schedule = recipe["schedule"] if recipe["schedule"] != "constant" else "constant_with_warmup"
    return {
        "output_dir": job["folder"],
        "use_cpu": True,
        "max_steps": steps,
        "per_device_train_batch_size": recipe["batch_size"],
        "per_device_eval_batch_size": recipe["batch_size"],
        "gradient_accumulation_steps": recipe["gradient_accumulation"],
        "learning_rate": recipe["learning_rate"],
        "lr_scheduler_type": schedule,
        "warmup_steps": math.ceil(recipe["warmup_share"] * steps),
        "weight_decay": recipe["weight_decay"],
        "max_grad_norm": recipe["max_grad_norm"],
        "seed": job["seed"],
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
    }


class Classification:
    """`Trainer` and PEFT with `AutoModelForSequenceClassification`: a linear layer on the last
    token, two classes."""

    def __init__(self, job: dict[str, Any], dtype: str) -> None:
        """dtype: that of the loaded model; `autocast` loads float32 and computes in bfloat16."""
        self.dtype = "bfloat16" if dtype == "autocast" else dtype
        self.job, autocast = job, dtype == "autocast"
        torch.manual_seed(job["seed"])
        self.tokenizer = AutoTokenizer.from_pretrained(job["weights"], trust_remote_code=False)
        model = AutoModelForSequenceClassification.from_pretrained(
            job["weights"],
            num_labels=2,
            dtype=torch.float32 if autocast else getattr(torch, dtype),
            trust_remote_code=False,
        )
        model.config.pad_token_id = self.tokenizer.pad_token_id
        self.model = get_peft_model(model, _lora(job, "SEQ_CLS"))
        self.arguments = TrainingArguments(**_arguments(job), bf16=autocast)
        self.trainer = self._trainer([])

    def _trainer(self, rows: list[dict[str, Any]]) -> Trainer:
        return Trainer(self.model, self.arguments, DataCollatorWithPadding(self.tokenizer), train_dataset=rows)

    def _rows(self, prompts: list[str], events: list[int]) -> list[dict[str, Any]]:
        tokens = self.tokenizer(prompts)
        return [
            {"input_ids": ids, "attention_mask": mask, "labels": event}
            for ids, mask, event in zip(tokens["input_ids"], tokens["attention_mask"], events, strict=True)
        ]

    def train(self, prompts: list[str], events: list[int]) -> None:
        """Fine-tune on rows."""
        self.trainer = self._trainer(self._rows(prompts, events))
        self.trainer.train()

    def logits(self, prompts: list[str]) -> np.ndarray:
        """(rows,) logits of the event against no event."""
        scores = self.trainer.predict(self._rows(prompts, [0] * len(prompts))).predictions  # (rows, 2)
        return np.asarray(scores[:, 1] - scores[:, 0], dtype=np.float64)


class Chat:
    """TRL's `SFTTrainer` on chat text: the prompt is the user's turn, the answer's word the
    model's.

    Loaded in the given type, without TRL's gradient checkpointing, which would cost a third of its
    speed. TRL computes the loss on the answer only, and takes the logits of no other token. Scored
    at the first token of the answer.
    """

    def __init__(self, job: dict[str, Any], dtype: str) -> None:
        self.job, self.dtype = job, dtype
        torch.manual_seed(job["seed"])
        self.tokenizer = AutoTokenizer.from_pretrained(job["weights"], padding_side="left", trust_remote_code=False)
        self.tokenizer.chat_template = self.tokenizer.chat_template or CHAT_TEMPLATE
        self.model = AutoModelForCausalLM.from_pretrained(
            job["weights"], dtype=getattr(torch, dtype), trust_remote_code=False
        )
        if job["task"] == "score":
            self.model = get_peft_model(self.model, _lora(job, "CAUSAL_LM")).eval()

    def train(self, prompts: list[str], events: list[int]) -> None:
        """Fine-tune on rows."""
        from datasets import Dataset
        from trl import SFTConfig, SFTTrainer

        rows = [
            {"prompt": [_turn("user", prompt)], "completion": [_turn("assistant", self.job["labels"][event])]}
            for prompt, event in zip(prompts, events, strict=True)
        ]
        trainer = SFTTrainer(
            self.model,
            SFTConfig(**_arguments(self.job), bf16=self.dtype == "bfloat16", gradient_checkpointing=False),
            train_dataset=Dataset.from_list(rows),
            processing_class=self.tokenizer,
            peft_config=_lora(self.job, "CAUSAL_LM"),
        )
        trainer.train()
        self.model = trainer.model.eval()

    @torch.no_grad()
    def logits(self, prompts: list[str]) -> np.ndarray:
        """(rows,) logits of the positive answer against the negative one."""
        negative, positive = (
            self.tokenizer(label, add_special_tokens=False)["input_ids"][0] for label in self.job["labels"]
        )
        chats = [
            self.tokenizer.apply_chat_template([_turn("user", prompt)], tokenize=False, add_generation_prompt=True)
            for prompt in prompts
        ]
        found, size = [], self.job["recipe"]["batch_size"]
        for first in range(0, len(chats), size):
            batch = self.tokenizer(
                chats[first : first + size], padding=True, add_special_tokens=False, return_tensors="pt"
            )
            last = self.model(**batch, logits_to_keep=1).logits[:, -1].double()  # (rows, vocabulary)
            found.append((last[:, positive] - last[:, negative]).numpy())
        return np.concatenate(found)


def _turn(role: str, content: str) -> dict[str, str]:
    return {"role": role, "content": content}
