"""References to pools: what can be asked of one besides what its members serve."""

from __future__ import annotations

from typing import Any, TypeVar, cast

from supervisor.client.futures import Events
from supervisor.client.ref import Ref, decode, encode
from supervisor.client.retry import check_seconds
from supervisor.protocol import codec
from supervisor.protocol.codec import Code
from supervisor.protocol.message_kinds import CALL_METHOD, SYSTEM
from supervisor.protocol.telemetry import SUPERVISION
from supervisor.supervision.supervisor_ref import ChildRow

REPEAT = "pool: repeat"
"""The method of a call that is to be repeated if its member dies. No method has such a name, so no
request for a member is taken for it."""

_Member_co = TypeVar("_Member_co", covariant=True)


class PoolRef(Ref[_Member_co]):
    """A reference to a pool: calls and casts go to one of its members.

    With ``retry`` a call, also by ``call_async``, is given to another member when the one that
    serves it dies, up to three times: for idempotent requests.
    """

    __slots__ = ()

    def resize(self, size: int) -> None:
        """Have the pool keep so many members from now on, also after its own restart.

        It waits until new members serve, or until those that are too many have ended. They end when
        they have answered what they are serving.

        Raises:
            ValueError, TypeError: this is no number of members.
            StartFailed: a new member does not start, and why; the pool keeps its former size.
        """
        self._operate("resize", size)

    async def aresize(self, size: int) -> None:
        """Do as ``resize``, from asyncio. Cancelled, it waits no longer."""
        await self._aoperate("resize", size)

    def which_children(self) -> list[ChildRow]:
        """Return each member's id, reference, type and state, in the order of their start."""
        return [ChildRow(*row) for row in self._operate("which_children")]

    async def awhich_children(self) -> list[ChildRow]:
        """Do as ``which_children``, from asyncio."""
        return [ChildRow(*row) for row in await self._aoperate("which_children")]

    def count_children(self) -> dict[str, int]:
        """Return the numbers of ``specs``, ``active``, ``supervisors`` and ``workers``."""
        return cast("dict[str, int]", self._operate("count_children"))

    async def acount_children(self) -> dict[str, int]:
        """Do as ``count_children``, from asyncio."""
        return cast("dict[str, int]", await self._aoperate("count_children"))

    def events(self) -> Events:
        """Return a stream of ``Event`` objects, as ``SupervisorRef.events``."""
        return Events(self._connection(), SUPERVISION)

    def _operate(self, *request: Any) -> Any:
        return self._ask(SYSTEM, ["operate", *request], None)

    async def _aoperate(self, *request: Any) -> Any:
        return await self._acall(SYSTEM, ["operate", *request], None)

    def _marked(self, kind: int, term: Any, retry: float) -> tuple[str | None, int, Any]:
        return self.name, *self._marked_for_future(kind, term, retry)

    def _marked_for_future(self, kind: int, term: Any, retry: float) -> tuple[int, Any]:
        check_seconds(retry)
        return CALL_METHOD, [REPEAT, [kind, term, retry]]


codec.extend(Code.POOL_REF, PoolRef, encode, lambda fields: decode(fields, PoolRef))
