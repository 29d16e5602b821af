"""Collect what events name, so that what several of them name is handled once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from handlers.reconcile.objects import version_number
from warmhook import events
from warmhook.admission_review import Admitted
from warmhook.events import Changed, Event, NotAnEvent, Pushed
from warmhook.ports import Object
from warmhook.warmimages import ObjectKey, PolicyKey

HANDLED: Final = frozenset({events.PUSHED, events.ADMITTED, events.CHANGED, events.REPORTED, events.SYNC, events.PING})
"""The types of events that name something."""


@dataclass(slots=True)
class Targets:
    """The objects of all events that arrived together."""

    pushed: list[tuple[Event, str, Pushed]] = field(default_factory=list)
    admitted: list[tuple[Event, Admitted]] = field(default_factory=list)
    policies: dict[PolicyKey, int] = field(default_factory=dict)
    """Each with the resourceVersion at which it changed, as the next ones; 0 if that is unknown."""
    warmimages: dict[ObjectKey, int] = field(default_factory=dict)
    nodes: dict[str, int] = field(default_factory=dict)
    reported: dict[ObjectKey, int] = field(default_factory=dict)
    sync: bool = False
    seen: dict[ObjectKey, Object] = field(default_factory=dict)
    """WarmImages as the watch saw them."""

    def add(self, event: Event) -> None:
        """Add one event. Raises `NotAnEvent`."""
        match event.type:
            case events.PUSHED:
                self.pushed.append((event, *events.read_pushed(event)))
            case events.ADMITTED:
                self.admitted.append((event, events.read_admitted(event)))
            case events.CHANGED:
                self._add_changes(events.read_changed(event))
            case events.REPORTED:
                self.reported |= {ObjectKey(*name.split("/")): 0 for name in events.read_reported(event)}
            case events.SYNC | events.PING:
                self.sync = True
            case _:
                raise NotAnEvent(f"type {event.type[:100]!r} is not handled here")

    def _add_changes(self, objects: Sequence[object]) -> None:
        """Add every object that can be read, then raise `NotAnEvent` if one cannot: a newer `watch` may name kinds that
        this process does not know."""
        refused: NotAnEvent | None = None
        for named in objects:
            try:
                self._add_change(events.read_change(named))
            except NotAnEvent as error:
                refused = error
        if refused is not None:
            raise refused

    def _add_change(self, changed: Changed) -> None:
        version = version_number(changed.resource_version)
        match changed.kind:
            case "WarmPolicy":
                policy = PolicyKey(changed.namespace, changed.name)
                self.policies[policy] = max(version, self.policies.get(policy, 0))
            case "WarmImage":
                warmimage = ObjectKey(changed.namespace, changed.name)
                self.warmimages[warmimage] = max(version, self.warmimages.get(warmimage, 0))
                if changed.object is not None:
                    self.seen[warmimage] = changed.object
            case "Node":
                self.nodes[changed.name] = max(version, self.nodes.get(changed.name, 0))
