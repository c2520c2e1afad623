"""Engines, which run items; the local one batches compatible items of different users on one device."""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ParamSpec, Protocol, TypeVar, runtime_checkable

from sfumato.editing.progress import Meter, Progress
from sfumato.errors import OUT_OF_MEMORY, EditError, ResourceError, is_out_of_memory
from sfumato.jobs.events import Event, Listener, Outcome
from sfumato.jobs.item import Item
from sfumato.jobs.previews import Previewer
from sfumato.pictures.reading import MAX_PIXELS
from sfumato.request import EditRequest, EditResult

if TYPE_CHECKING:  # a server listens before they and diffusers are loaded
    import torch

    from sfumato.editing.prepared import Prepared, Sample
    from sfumato.editing.sampling import Latents

P = ParamSpec("P")
T = TypeVar("T")

Join = Callable[[Item], bool]

log = logging.getLogger("sfumato.jobs")

SHARED = 8  # items per batch on a GPU; on a CPU a batch takes about as long as its predictions one by one
KEYS_KEPT = 256  # batch keys remembered of items that were prepared but did not join


class Edits(Protocol):
    """Interface for running one item: `sfumato.Editor`, or a stand-in."""

    def edit(self, request: EditRequest, *, on_progress: Callable[[Any], None]) -> EditResult:
        """See `sfumato.Editor.edit`."""


@runtime_checkable
class Stages(Protocol):
    """Interface for running several items in one batch: `sfumato.Editor`."""

    device: torch.device

    def prepare(self, request: EditRequest, *, on_progress: Callable[[Any], None]) -> Prepared:
        """See `sfumato.Editor.prepare`."""

    def sample(self, samples: Sequence[Sample]) -> Iterator[Latents]:
        """See `sfumato.Editor.sample`."""

    def finish(self, edit: Prepared, made: Iterable[Latents]) -> EditResult:
        """See `sfumato.Editor.finish`."""


class Engine(Protocol):
    """Interface of engines: they run items in this process or elsewhere."""

    def load(self, model: str) -> None:
        """Make a model ready for its first item.

        Raises:
            EditError: It cannot be loaded.
        """

    def run(self, items: Sequence[Item], listener: Listener, join: Join) -> Iterator[Outcome]:
        """Run the first item, together with others that can share its batches.

        Args:
            items: Not empty. The first is always run, the others only if they fit.
            listener: Called with the events of all items that are run. An error that it raises ends the item concerned alone.
            join: Called before another item is run; False leaves it out.

        Returns:
            Outcome of each item that was run, as soon as it is known; errors are outcomes and are not raised.
        """


class Reporter:
    """Converts the progress of one item into events, with the previews that its listener wants.

    Args:
        item: The item.
        request: Its request.
        listener: Called with the events.
        max_pixels: As in `sfumato.Editor`.
        silent: Whether to report nothing yet.
    """

    def __init__(self, item: Item, request: EditRequest, listener: Listener, max_pixels: int, *, silent: bool = False) -> None:
        self.id, self.listener, self.silent = item.id, listener, silent
        self._previewer = Previewer(request, max_pixels)
        self._meter, self._shows = Meter(), True

    def __call__(self, progress: Progress) -> None:
        """Report progress; errors of the listener are raised."""
        if self.silent:
            return
        metered = self._meter(progress)
        event = Event(
            id=self.id,
            stage=metered.stage,
            step=metered.step,
            total=metered.total,
            fraction=metered.fraction or 0.0,
            seconds_left=metered.seconds_left,
        )
        wanted = self.listener.wanted(event)
        if metered.preview is not None and self._shows:
            event = self._with_pictures(event, metered, *wanted)
        self.listener(event)

    def _with_pictures(self, event: Event, progress: Progress, preview: bool, partial: bool) -> Event:
        """The event with previews. If making one fails, the item goes on without any more."""
        try:
            if partial:
                event = replace(event, partial=self._previewer.whole(progress))
            if preview and self._previewer.due():
                event = replace(event, preview=self._previewer.small(progress))
        except Exception:
            log.exception("a preview of %s failed", self.id)
            self._shows = False
        return event


class LocalEngine:
    """Runs items in this process. See `Engine`.

    Args:
        make_editor: Loads a model by name; each is loaded once and kept.
        pixels: Most pixels of a picture, and of all pictures in one batch together.
        share: Most items in one batch; by default `SHARED` on a GPU and 1 on a CPU.
    """

    def __init__(self, make_editor: Callable[[str], Edits], *, pixels: int = MAX_PIXELS, share: int | None = None) -> None:
        self._make_editor, self._pixels, self._share = make_editor, pixels, share
        self._editors: dict[str, Edits] = {}
        self._keys: OrderedDict[str, tuple[Hashable, ...]] = OrderedDict()

    def editor(self, model: str) -> Edits:
        """The editor of a model, loaded on first use.

        Raises:
            BackboneError: See `sfumato.Editor`.
        """
        editor = self._editors.get(model)
        if editor is None:
            editor = self._editors[model] = self._make_editor(model)
        return editor

    def load(self, model: str) -> None:
        """See `Engine.load`."""
        self.editor(model)

    def unload(self, model: str) -> None:
        """Let go of a model; it is loaded again when an item needs it."""
        self._editors.pop(model, None)

    def run(self, items: Sequence[Item], listener: Listener, join: Join = lambda item: True) -> Iterator[Outcome]:
        """See `Engine.run`."""
        first, *others = items
        editor = attempt(first, self.editor, first.model)
        if isinstance(editor, Outcome):
            yield editor
        elif others and isinstance(editor, Stages) and self._most(editor) > 1:
            yield from self._together(editor, first, others, listener, join)
        else:
            result = attempt(first, self._alone, editor, first, listener)
            yield result if isinstance(result, Outcome) else Outcome(id=first.id, result=result)

    def _most(self, editor: Stages) -> int:
        return self._share or (1 if editor.device.type == "cpu" else SHARED)

    def _alone(self, editor: Edits, item: Item, listener: Listener) -> EditResult:
        request = item.request()
        return editor.edit(request, on_progress=Reporter(item, request, listener, self._pixels))

    def _together(self, editor: Stages, first: Item, others: Sequence[Item], listener: Listener, join: Join) -> Iterator[Outcome]:
        """Run an item with those that can join it. Each is finished separately, and its pictures are then freed."""
        lead = attempt(first, self._prepare, editor, first, listener)
        if isinstance(lead, Outcome):
            yield lead
            return
        group = [lead, *self._joining(editor, lead, others, listener, join)]
        shared, made = len(group), self._sampled(editor, group)
        while group:
            member = group.pop(0)
            result = attempt(member.item, _finish, editor, member, made.pop(member.item.id, None))
            if not isinstance(result, Outcome):
                result = Outcome(id=member.item.id, result=result, shared=shared, lead=member is lead)
            yield result

    def _prepare(self, editor: Stages, item: Item, listener: Listener, silent: bool = False) -> _Member:
        request = item.request()
        reporter = Reporter(item, request, listener, self._pixels, silent=silent)
        return _Member(item=item, edit=editor.prepare(request, on_progress=reporter), reporter=reporter)

    def _joining(
        self, editor: Stages, lead: _Member, others: Sequence[Item], listener: Listener, join: Join
    ) -> Iterator[_Member]:
        """The items that fit into the first one's batch; the others stay in the queue."""
        keys, room, pixels = lead.edit.keys, lead.room - lead.item.n, self._pixels - lead.item.pixels()
        places = self._most(editor) - 1
        for item in others:
            if not places:
                return
            if item.n > room or not item.resembles(lead.item) or self._keys.get(item.id, keys) != keys:
                continue
            size = attempt(item, item.pixels)
            if isinstance(size, Outcome) or size > pixels:
                continue
            member = attempt(item, self._prepare, editor, item, listener, True)
            if isinstance(member, Outcome):  # it fails again, and is reported, when its turn comes
                continue
            self._remember(item, member.edit.keys)
            taken = lead.room - room
            if member.edit.keys != keys or taken + item.n > member.room or not join(item):
                continue
            member.reporter.silent = False
            places, pixels, room = places - 1, pixels - size, min(room, member.room - taken) - item.n
            yield member

    def _remember(self, item: Item, keys: tuple[Hashable, ...]) -> None:
        """Store an item's batch keys, so that it is not prepared in vain again."""
        self._keys[item.id] = keys
        while len(self._keys) > KEYS_KEPT:
            self._keys.popitem(last=False)

    def _sampled(self, editor: Stages, group: Sequence[_Member]) -> dict[str, list[Latents]]:
        """Latents of a shared batch, by item; empty for one item, or if the batch failed: items are then sampled singly."""
        if len(group) == 1:
            return {}
        try:
            made = list(editor.sample([sample for member in group for sample in member.edit.samples]))
        except BaseException as error:
            if any(member.edit.failure is None for member in group):
                log.warning("a batch of %d items failed, so they are run one by one: %s", len(group), type(error).__name__)
            return {}
        return {member.item.id: [part for part in made if part.window.edit is member.edit] for member in group}


@dataclass(kw_only=True)
class _Member:
    """A prepared item."""

    item: Item
    edit: Prepared
    reporter: Reporter

    @property
    def room(self) -> int:
        """Most predictions per batch."""
        return min(window.limit for window in self.edit.windows)


def _finish(editor: Stages, member: _Member, made: list[Latents] | None) -> EditResult:
    if member.edit.failure is not None:
        raise member.edit.failure
    return editor.finish(member.edit, editor.sample(member.edit.samples) if made is None else made)


def attempt(item: Item, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T | Outcome:
    """Result of the work, or the item's outcome if it failed, with the traceback dropped so that its tensors are freed.

    SystemExit and the like are caught too: a library that raises them must not end the worker.
    """
    try:
        return work(*args, **kwargs)
    except EditError as error:
        error.__cause__ = error.__context__ = None
        return Outcome(id=item.id, error=error.with_traceback(None))
    except BaseException as error:
        if is_out_of_memory(error):
            failure: EditError = ResourceError("Out of memory; ask for less, or a smaller picture.", code=OUT_OF_MEMORY)
        else:
            log.exception("item %s failed", item.id)
            failure = EditError(f"Something unexpected happened; the log has it under {item.id}.", code="internal")
        return Outcome(id=item.id, error=failure)
