# SPDX-License-Identifier: Apache-2.0
"""The policies in the Kubernetes API, kept current by its events.

Main thread only. Until a resource has been listed completely, an unreadable policy stands in for
it and selects every pod, or the objects that an earlier agent kept are in force. An object that
becomes unreadable stays in force in its last good version.
"""

from collections.abc import Iterator, Mapping
from typing import NamedTuple

import msgspec

from podtally.kube.model import ApiEvent, ObjectPage
from podtally.policy.ingress import DeclaredIngress
from podtally.policy.load.api_resources import INGRESSES, POLICY_RESOURCE_NAMES, ApiPolicyObject
from podtally.policy.load.stand_ins import BEFORE_ALL
from podtally.policy.model import ADMIN_TIER, EVERYTHING, UNSYNCED, PodSubject, Policy
from podtally.policy.problems import Problem

Key = tuple[str, str]


class LiveSnapshot(NamedTuple):
    """The policies in the API at one moment."""

    policies: tuple[Policy, ...]
    stand_ins: tuple[Policy, ...]  # for resources not yet synced
    ingresses: tuple[DeclaredIngress, ...]
    problems: tuple[Problem, ...]
    ingresses_known: bool
    stale: int = 0  # objects in force in an earlier version
    kept: tuple[str, ...] = ()  # resources that are in force as an earlier agent kept them
    good: Mapping[str, tuple[ApiPolicyObject, ...]] = {}  # readable ones of synced resources


class LivePolicies:
    """``kept`` are the objects that an earlier agent had, by resource."""

    def __init__(self, kept: Mapping[str, tuple[ApiPolicyObject, ...]] | None = None) -> None:
        self._kept = dict(kept or {})
        self._uses_kept = False
        self._objects: dict[str, dict[Key, ApiPolicyObject]] = {
            name: {} for name in sorted(POLICY_RESOURCE_NAMES)
        }
        self._listed: dict[str, set[Key]] = {}  # so far, by lists in progress
        self._synced: set[str] = set()  # resources listed completely
        self._now: LiveSnapshot | None = None

    def apply(self, event: ApiEvent) -> None:
        """Apply an event; those of other resources are ignored."""
        objects = self._objects.get(event.resource)
        if objects is None:
            return
        if isinstance(event, ObjectPage):
            self._take_page(objects, event)
        elif event.kind == "DELETED":
            self._drop(objects, _key_of(event.object))
        else:
            self._put(objects, event.object)

    def now(self) -> LiveSnapshot:
        """Return the snapshot: the same object until something changes."""
        if self._now is None:
            self._now = self._gathered()
        return self._now

    def unsynced(self) -> tuple[str, ...]:
        """Return the names of resources not yet listed completely."""
        return tuple(name for name in self._objects if name not in self._synced)

    def use_kept(self) -> None:
        """Have the kept objects of resources in force that are not synced."""
        if not self._uses_kept:
            self._uses_kept = True
            self._now = None

    def _take_page(self, objects: dict[Key, ApiPolicyObject], page: ObjectPage) -> None:
        if page.first:
            self._listed[page.resource] = set()
        listed = self._listed.setdefault(page.resource, set())
        for item in page.objects:
            self._put(objects, item)
            listed.add(_key_of(item))
        if page.last:
            for key in objects.keys() - listed:
                self._drop(objects, key)
            del self._listed[page.resource]
            if page.resource not in self._synced:
                self._synced.add(page.resource)
                self._kept.pop(page.resource, None)
                self._now = None

    def _put(self, objects: dict[Key, ApiPolicyObject], item: ApiPolicyObject) -> None:
        key = _key_of(item)
        before = objects.get(key)
        if (
            before is not None
            and item.policy_object.unreadable
            and not before.policy_object.unreadable
        ):
            item = msgspec.structs.replace(item, policy_object=before.policy_object)
        if before is not None and (before.policy_object, before.problems) == (
            item.policy_object,
            item.problems,
        ):
            # Listed again, or only labels or status changed: one copy of the policy is kept.
            item = msgspec.structs.replace(before, uid=item.uid)
        else:
            self._now = None
        objects[key] = item

    def _drop(self, objects: dict[Key, ApiPolicyObject], key: Key) -> None:
        if objects.pop(key, None) is not None:
            self._now = None

    def _gathered(self) -> LiveSnapshot:
        kept = self._kept_in_force()
        every = {
            name: {_key_of(item): item for item in kept.get(name, ())} | objects
            for name, objects in self._objects.items()
        }
        found = [item for objects in every.values() for item in objects.values()]
        meanings = [item.policy_object for item in found]
        return LiveSnapshot(
            tuple(meaning for meaning in meanings if isinstance(meaning, Policy)),
            tuple(self._stand_ins()),
            tuple(meaning for meaning in meanings if isinstance(meaning, DeclaredIngress)),
            tuple(problem for item in found for problem in item.problems),
            INGRESSES in self._synced or INGRESSES in kept,
            sum(bool(item.problems) and not item.policy_object.unreadable for item in found),
            tuple(kept),
            {
                name: tuple(i for i in objects.values() if not i.policy_object.unreadable)
                for name, objects in self._objects.items()
                if name in self._synced
            },
        )

    def _kept_in_force(self) -> dict[str, tuple[ApiPolicyObject, ...]]:
        if not self._uses_kept:
            return {}
        return {name: self._kept[name] for name in self.unsynced() if name in self._kept}

    def _stand_ins(self) -> Iterator[Policy]:
        for name in self.unsynced():
            if name != INGRESSES and name not in self._kept_in_force():
                why = f"{name} are not yet synced from the API"
                yield Policy(
                    UNSYNCED,
                    "",
                    name,
                    PodSubject(EVERYTHING, EVERYTHING),
                    tier=ADMIN_TIER,
                    priority=BEFORE_ALL,
                    unreadable=why,
                )


def _key_of(item: ApiPolicyObject) -> Key:
    return item.namespace, item.name
