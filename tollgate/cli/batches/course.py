"""The course of `batch run` and `attach`: upload, estimate, make, watch, write the results, and say how it went."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime

from tollgate.cli import exits, output
from tollgate.cli.batches import estimate, looking, making, shown, uploading, watching
from tollgate.cli.batches.outputs import Out
from tollgate.cli.batches.sources import Source
from tollgate.cli.client import Gateway, Json


@dataclass(slots=True, kw_only=True)
class Course:
    """What has happened so far, so that a command that is interrupted or fails can say it."""

    gateway: Gateway
    out: Out | None = None
    as_json: bool = False
    asked_for: bool = field(default=False, init=False)
    """The batch may be there, although nobody knows its id."""
    batch: Json | None = None

    def run(self, source: Source, asked: Json, *, with_estimate: bool, detach: bool) -> int:
        """Make a batch of `source`, and stay with it unless `detach`. Returns the exit code."""
        try:
            batch = self._begin(source, asked, with_estimate=with_estimate)
            if not detach:
                return self._to_the_end(batch)
        except KeyboardInterrupt:
            return self._interrupted()
        except Exception:
            self._tell_of_it()
            raise
        output.json_line(batch) if self.as_json else print(batch["id"])
        return exits.OK

    def attach(self, batch: Json) -> int:
        """Stay with one that is there. Returns the exit code."""
        self.batch = batch
        try:
            return self._to_the_end(batch)
        except KeyboardInterrupt:
            return self._interrupted()
        except Exception:
            self._tell_of_it()
            raise

    def _begin(self, source: Source, asked: Json, *, with_estimate: bool) -> Json:
        uploaded = uploading.upload(self.gateway, source)
        asked = {**asked, "input_file_id": uploaded["id"]}
        if with_estimate:
            _estimate(self.gateway, asked)
        self.asked_for = True
        self.batch = batch = making.make(self.gateway, asked)
        output.note(f"batch {batch['id']}: {output.count(batch['counts']['total'], 'line')} of {source.name}")
        return batch

    def _to_the_end(self, batch: Json) -> int:
        follow = self.out.follow if self.out else lambda _: None
        self.batch = batch = watching.watch(self.gateway, batch, seen=follow)
        if self.out is not None:
            self.out.finish(batch)
        if self.as_json:
            output.json_line(batch)
        else:
            _report(batch, written=self.out is not None)
        return looking.code_of(batch)

    def _interrupted(self) -> int:
        if self.batch is not None:
            output.note("interrupted")
            self._tell_of_it()
        elif self.asked_for:
            output.note("interrupted; the batch may run all the same: look with `tollgate batch list`")
        else:
            output.note("interrupted; nothing was run")
        return exits.INTERRUPTED

    def _tell_of_it(self) -> None:
        """What is left behind, and what to type."""
        if self.batch is None:
            return
        if shown.has_ended(self.batch):
            output.note(f"the batch has ended; its results: tollgate batch results {self.batch['id']} --out FILE")
            return
        output.note(
            "the batch goes on without this command.\n"
            f"  watch it:  tollgate batch attach {self.batch['id']}\n"
            f"  stop it:   tollgate batch cancel {self.batch['id']}"
        )


def _estimate(gateway: Gateway, asked: Json) -> None:
    """Raises RefusedError for what the batch would be refused for; a gateway that has no estimate is no reason."""
    try:
        output.note(estimate.line(estimate.ask(gateway, asked)))
    except exits.GatewayUnreachableError as error:
        output.note(f"no estimate: {error}")


def _report(batch: Json, *, written: bool) -> None:
    took = datetime.fromisoformat(batch["ended_at"]) - datetime.fromisoformat(batch["created_at"])
    print(shown.summary(batch, elapsed_s=took.total_seconds()))
    if batch["error"]:
        output.note(f"{batch['error']['code']}: {batch['error']['message']}")
    if batch["errors"]:
        output.console().print(shown.errors_table(batch["errors"]))
    if advice := shown.advice(batch, written=written):
        output.note(advice)
