"""Every setting of the servers, read once at an entry point and passed down as a value.

Sources, the first that has a name wins: the environment, a `.env` file in the working folder, the
default. A setting that cannot be used raises SettingsError with its variable and what to write.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal

import dotenv
import pydantic

from tollgate.domain.addresses import CallbackRules
from tollgate.domain.errors import SettingsError

PREFIX = "TOLLGATE_"
CLIENT_NAMES = frozenset({"TOLLGATE_URL", "TOLLGATE_KEY"})
"""Read by the client commands only; not settings of a server."""

Seconds = Annotated[float, pydantic.Field(gt=0, allow_inf_nan=False)]
Count = Annotated[int, pydantic.Field(ge=1)]


class Settings(pydantic.BaseModel):
    """Field `database_url` is the variable TOLLGATE_DATABASE_URL, and so on."""

    model_config = pydantic.ConfigDict(frozen=True, extra="forbid", arbitrary_types_allowed=True)

    data: Path = pydantic.Field(Path(".tollgate"), description="folder of the embedded mode and of uploads")
    database_url: str | None = pydantic.Field(
        None, repr=False, description="postgresql://... or sqlite:///...; default: the SQLite file of the data folder"
    )
    redis_url: str | None = pydantic.Field(
        None, repr=False, description="event bus, rates of keys, and the broker unless BROKER_URL is set"
    )
    broker_url: str | None = pydantic.Field(None, repr=False, description="Celery's broker; default: REDIS_URL")
    master_key: pydantic.SecretStr | None = pydantic.Field(
        None,
        description="derives every API key and webhook secret; comma-separated, the first makes new ones; 32 "
        "characters or more",
    )
    currency: str = pydantic.Field("CNY", pattern=r"^[A-Z]{3}$", description="the one currency of this installation")
    models_file: Path | None = pydantic.Field(None, description="default: the built-in models.toml")
    prices_file: Path | None = pydantic.Field(None, description="default: the built-in prices.toml")
    zhipu_base_url: str | None = pydantic.Field(None, description="another address of ZhipuAI's v4 wire")
    zhipu_api_key: pydantic.SecretStr | None = pydantic.Field(
        None, description="ZhipuAI's key (ZHIPUAI_API_KEY works too)"
    )
    lanes: str = pydantic.Field(
        "cloud", description="what this worker serves: cloud, local, or lanes such as cloud.bulk"
    )
    max_in_flight: Count = pydantic.Field(
        1000, description="calls in flight in one worker process, all routes together"
    )
    sync_timeout_s: Seconds = pydantic.Field(
        290.0, description="a synchronous call waits so long (SDKs give up at 300)"
    )
    sync_retry_s: Seconds = pydantic.Field(30.0, description="a synchronous call's task is retried so long")
    task_timeout_s: Seconds = pydantic.Field(86_400.0, description="a task without expires_at ends after this")
    upstream_batch_poll_s: Seconds = pydantic.Field(
        30.0, description="a batch at ZhipuAI (via upstream_batch) is looked at so often"
    )
    upstream_batches_open: Count = pydantic.Field(
        8, description="batches at one upstream that are open at once, for the whole fleet; each has up to 50,000 lines"
    )
    drain_timeout_s: Seconds = pydantic.Field(30.0, description="a stopping worker waits so long for calls in flight")
    max_body_bytes: Count = pydantic.Field(32 * 1024 * 1024, description="the largest request body")
    files: Path | None = pydantic.Field(
        None,
        description="folder of uploaded files, this installation's alone and the same for all its gateways; default: "
        "files in the data folder",
    )
    max_file_bytes: Count = pydantic.Field(2 * 1024**3, description="the largest file that may be uploaded")
    file_days: int = pydantic.Field(
        30, ge=0, le=36_500, description="an uploaded file is removed after so many days; 0: never"
    )
    max_line_bytes: Count = pydantic.Field(8 * 1024 * 1024, description="the longest line of a batch's file")
    max_tasks_per_submit: Count = pydantic.Field(10_000, description="the longest list in one POST /tasks")
    webhooks_allow_http: bool = pydantic.Field(
        False, description="webhooks may go to http URLs, too: anybody on the way reads them"
    )
    webhooks_allow_private: bool = pydantic.Field(
        False,
        description="webhooks may go to private, loopback and link-local addresses: whoever has a key can reach "
        "what the beat can reach",
    )
    database_pool: Count = pydantic.Field(10, description="PostgreSQL connections of one process")
    simulator_latency_s: float = pydantic.Field(
        0.3, ge=0, allow_inf_nan=False, description="of the embedded mode's simulator, in seconds"
    )
    model: str | None = pydantic.Field(
        None,
        description="the checkpoint that this worker, or `tollgate up`, serves on its own device: a folder or a hub "
        "name; UPSTREAM=PATH where models.toml has several local upstreams",
    )
    local_slots: Count | None = pydantic.Field(
        None, description="answers that the local engine writes at once; default: by the device's memory"
    )
    local_context_tokens: Count | None = pydantic.Field(
        None, description="prompt and answer of one slot together; default: by the device's memory and the checkpoint"
    )
    local_prefill_tokens: Count = pydantic.Field(
        512, description="tokens of prompts read in one step: more starts answers sooner, and holds up running ones"
    )
    local_dtype: Literal["auto", "bfloat16", "float16", "float32"] = pydantic.Field(
        "auto", description="of the local model's weights; auto: bfloat16 on a GPU, float32 on a CPU"
    )
    local_device: str = pydantic.Field(
        "auto", pattern=r"^(auto|cpu|mps|cuda(:[0-9]+)?)$", description="auto: the GPU where there is one; cpu, cuda:1"
    )
    local_threads: Count | None = pydantic.Field(
        None, description="CPU threads of the local engine; default: one for each core"
    )
    local_quantization: Literal["none", "nf4", "int8"] = pydantic.Field(
        "none", description='the local model\'s weights in fewer bits; needs pip install "tollgate[quantization]"'
    )
    log_level: Literal["debug", "info", "warning", "error"] = pydantic.Field("info", description="what is logged")

    environment: Mapping[str, str] = pydantic.Field(default_factory=dict, exclude=True, repr=False)
    """All variables as read, for the credentials that models.toml names. Never logged."""
    sources: Mapping[str, str] = pydantic.Field(default_factory=dict, exclude=True, repr=False)
    """Field -> where its value came from."""

    @property
    def store_url(self) -> str:
        """The database, with the data folder's SQLite file as the default."""
        return self.database_url or f"sqlite:///{(self.data / 'tollgate.db').absolute()}"

    @property
    def files_folder(self) -> Path:
        return self.files or self.data / "files"

    @property
    def callback_rules(self) -> CallbackRules:
        """Where webhooks may be sent."""
        return CallbackRules(allow_http=self.webhooks_allow_http, allow_private=self.webhooks_allow_private)

    @property
    def celery_broker_url(self) -> str | None:
        return self.broker_url or self.redis_url


def field_names() -> tuple[str, ...]:
    """The fields that are settings, in the order of their declaration."""
    return tuple(name for name in Settings.model_fields if name not in ("environment", "sources"))


def load(environ: Mapping[str, str] | None = None, *, dotenv_path: Path = Path(".env")) -> Settings:
    """Read and check the settings. Raises SettingsError with the variable's name and the fix."""
    from_file = {k: v for k, v in dotenv.dotenv_values(dotenv_path).items() if v is not None}
    from_environ = dict(os.environ if environ is None else environ)
    merged = {**from_file, **from_environ}
    values: dict[str, object] = {}
    sources: dict[str, str] = {}
    for name in field_names():
        variable = PREFIX + name.upper()
        if merged.get(variable, "") != "":
            values[name] = merged[variable]
            sources[name] = "environment" if from_environ.get(variable) else str(dotenv_path)
    if "zhipu_api_key" not in values and merged.get("ZHIPUAI_API_KEY"):
        values["zhipu_api_key"] = merged["ZHIPUAI_API_KEY"]
        sources["zhipu_api_key"] = "ZHIPUAI_API_KEY"
    try:
        settings = Settings.model_validate({**values, "environment": merged, "sources": sources})
    except pydantic.ValidationError as error:
        raise SettingsError(_explain(error)) from None
    _check_urls(settings)
    return settings


def _explain(error: pydantic.ValidationError) -> str:
    lines = []
    for problem in error.errors(include_url=False, include_input=False):
        name = str(problem["loc"][0])
        about = Settings.model_fields[name].description
        lines.append(f"{PREFIX}{name.upper()}: {problem['msg']} ({about})")
    return "\n".join(lines)


def _check_urls(settings: Settings) -> None:
    url = settings.store_url
    if not url.startswith(("postgresql://", "postgres://", "postgresql+asyncpg://", "sqlite:///")):
        raise SettingsError(
            "TOLLGATE_DATABASE_URL: write postgresql://user:password@host:5432/name or sqlite:///path/to/file.db"
        )
    if settings.redis_url and not settings.redis_url.startswith(("redis://", "rediss://", "unix://")):
        raise SettingsError("TOLLGATE_REDIS_URL: write redis://host:6379/0 (rediss:// for TLS)")
