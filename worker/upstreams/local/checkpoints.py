"""A checkpoint before it is loaded: what it is, whether the engine runs it, what is wrong with it. No torch.

`read` tells all it finds; `require` raises where the checkpoint cannot be served.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tollgate.domain.errors import SettingsError
from worker.upstreams.local import architectures, hub, weight_files
from worker.upstreams.local.architectures import NATIVE, Architecture, Config
from worker.upstreams.local.chatglm import architecture as chatglm
from worker.upstreams.local.chatglm import detection
from worker.upstreams.local.chatglm.errors import OriginalError
from worker.upstreams.local.weight_files import Finding, WeightFiles

SERVER = "serve it with vLLM or SGLang, as an upstream of kind openai"


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """What a folder holds."""

    name: str
    """As it was given: a folder, or a name on the hub."""
    path: Path
    model_type: str
    class_name: str
    """Its class, as config.json has it."""
    native: bool
    """Of a family that the engine runs."""
    architecture: Architecture | None
    """None: of a kind that is not known here."""
    files: WeightFiles
    has_tokenizer: bool
    has_chat_template: bool
    ends: frozenset[int]
    """The tokens that end an answer."""
    findings: tuple[Finding, ...]

    @property
    def parameters(self) -> int | None:
        """By its shape, so without what is in the files and not loaded."""
        return self.architecture.parameters if self.architecture else self.files.numbers

    @property
    def servable(self) -> bool:
        return not any(finding.fatal for finding in self.findings)


def read(model: str, *, weights: bool = False) -> Checkpoint:
    """Of a folder, or of a name on the hub, whose weights are downloaded if asked for.

    Raises SettingsError: there is no such folder or model, or its config.json cannot be read.
    """
    path = hub.folder_of(model, weights=weights)
    config = _config(path)
    architecture, findings = _architecture(config, model=model)
    files = weight_files.read(path, layers=architecture.layers if architecture else None)
    has_tokenizer, has_chat_template = (path / "tokenizer.json").is_file(), _has_chat_template(path)
    if not findings:
        findings = [*_of_files(files, architecture, remote=not Path(model).expanduser().is_dir())]
        findings += _of_words(has_tokenizer=has_tokenizer, has_chat_template=has_chat_template)
    return Checkpoint(
        name=model,
        path=path,
        model_type=str(config.get("model_type", "unknown")),
        class_name=str((config.get("architectures") or ["unknown"])[0]),
        native=config.get("model_type") in NATIVE,
        architecture=architecture,
        files=files,
        has_tokenizer=has_tokenizer,
        has_chat_template=has_chat_template,
        ends=_ends(config, path),
        findings=tuple(findings),
    )


def require(model: str) -> Checkpoint:
    """One that can be loaded, its weights on this machine. Raises SettingsError, with what to do."""
    _refuse(read(model))  # before its weights are downloaded
    checkpoint = read(model, weights=True)
    _refuse(checkpoint)
    return checkpoint


def _refuse(checkpoint: Checkpoint) -> None:
    faults = [f"{finding.problem}: {finding.fix}" for finding in checkpoint.findings if finding.fatal]
    if faults:
        raise SettingsError(f"{checkpoint.name} cannot be served. " + ". ".join(faults))


def _config(path: Path) -> Config:
    config = _json(path / "config.json")
    if config is None:
        raise SettingsError(f"{path} has no config.json: it is no checkpoint of transformers")
    return config


def _json(path: Path) -> dict[str, Any] | None:
    """None if there is no such file. Raises SettingsError."""
    try:
        found: Any = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise SettingsError(f"{path} cannot be read: {error}; download it again") from error
    if not isinstance(found, dict):
        raise SettingsError(f"{path} is not a JSON object; download it again")
    return found


def _architecture(config: Config, *, model: str) -> tuple[Architecture | None, list[Finding]]:
    """The shape, and why the engine does not run it, if it does not."""
    kind = detection.detect(config)
    if kind is not None:
        return _of_chatglm(config, kind, model=model)
    try:
        architecture = architectures.of(config)
    except architectures.MissingNumberError as error:
        return None, [Finding(f"config.json has no good value of {error}", "download it again")]
    model_type = config.get("model_type")
    if model_type not in NATIVE:
        known = ", ".join(NATIVE)
        return architecture, [Finding(f"its model type is {model_type}; the engine runs {known}", SERVER)]
    method = (config.get("quantization_config") or {}).get("quant_method")
    if method:
        fix = f"take the original, with TOLLGATE_LOCAL_QUANTIZATION if it does not fit; or {SERVER}"
        return architecture, [Finding(f"its weights are quantised already ({method})", fix)]
    return architecture, []


def _of_chatglm(config: Config, kind: detection.Kind, *, model: str) -> tuple[Architecture | None, list[Finding]]:
    """The shape that it has once it is converted, if it can be."""
    finding = Finding(f"it is {kind.value}", detection.advice(kind, path=model))
    if kind is not detection.Kind.CONVERTIBLE:
        return None, [finding]
    try:
        original = chatglm.read(config, generation=3)
    except OriginalError as error:
        return None, [Finding(f"it is {kind.value}, and cannot be converted", str(error))]
    native = chatglm.native(original, tied=bool(config.get("tie_word_embeddings")), ends=[], pad=0, dtype="float16")
    return architectures.of({"model_type": "glm", **native}), [finding]


def _of_files(files: WeightFiles, architecture: Architecture | None, *, remote: bool) -> list[Finding]:
    if remote and files.bytes == 0:
        size = f" ({files.declared_bytes / 1e9:.1f} GB)" if files.declared_bytes else ""
        return [Finding(f"its weights are not on this machine{size}", "a worker downloads them", fatal=False)]
    if files.findings or architecture is None or files.numbers is None:
        return files.findings
    lacking = architecture.parameters + architecture.buffers - files.numbers
    if lacking <= 0:
        return []
    problem = f"the files hold {lacking:,} numbers fewer than config.json describes"
    return [Finding(problem, "one of them is of another model: download both again")]


def _of_words(*, has_tokenizer: bool, has_chat_template: bool) -> list[Finding]:
    found = []
    if not has_tokenizer:
        found.append(Finding("there is no tokenizer.json", "copy it from the model that this one was made from"))
    if not has_chat_template:
        problem = "there is no chat template (chat_template.jinja, or in tokenizer_config.json)"
        found.append(Finding(problem, "take the model's chat version; a base model cannot answer messages"))
    return found


def _has_chat_template(path: Path) -> bool:
    if (path / "chat_template.jinja").is_file():
        return True
    return any(
        (_json(path / name) or {}).get("chat_template") for name in ("tokenizer_config.json", "chat_template.json")
    )


def _ends(config: Config, path: Path) -> frozenset[int]:
    generation = _json(path / "generation_config.json") or {}
    ends = generation.get("eos_token_id", config.get("eos_token_id"))
    return frozenset(ends if isinstance(ends, list) else () if ends is None else (ends,))
