"""What one provider of a fleet takes from the store, and what it tells it."""

from __future__ import annotations

import json
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from conduit_oauth import TokenRequestError, TransportError
from conduit_oauth.identity.credentials import Credentials
from conduit_oauth.protocol.pauses import REFUSAL_MEMORY
from conduit_oauth.sharing.gate import Busy, Refused
from conduit_oauth.sharing.key_state import MOST_VOID
from conduit_oauth.sharing.leases import FIRST_LEASE, LEASE
from conduit_oauth.sharing.share import Share
from conduit_oauth.sharing.tier import Tier
from conduit_oauth.stores import Entry, Known, TokenStore
from conduit_oauth.stores.memory import MemoryStore
from conduit_oauth.token import NO_TOKEN, AccessToken
from tests.conftest import FakeClock

ERROR = TransportError("https://as.example/token", "refuses connections")


class Line(Tier):
    """A process's way to the store, which can be cut. Its clock is far ahead of the processes'."""

    def __init__(self, store: TokenStore) -> None:
        super().__init__(store, 5.0, remote=False)
        self.lease = LEASE
        self.is_cut = False
        # What happens while the store is asked next.
        self.meanwhile: Callable[[], object] | None = None
        self.patient: list[bool] = []
        # Whether it answers again once its pause was waited out.
        self.recovers = False

    def wait_out(self, key: str) -> None:
        self.is_cut &= not self.recovers

    def call(self, key: str, work: Callable[[TokenStore], Any], *, patient: bool = False, **others: Any) -> Any:
        self.patient.append(patient)
        answer = None if self.is_cut else super().call(key, work, patient=patient, **others)
        if (meanwhile := self.meanwhile) is not None:
            self.meanwhile = None
            meanwhile()
        return answer


class Deaf:
    """Tests tell what is heard."""

    def heard(self, entry: Entry) -> None: ...

    def resync(self, *, distrust: bool = False) -> None: ...


LISTENER = Deaf()


class Fleet:
    """Processes, each with a share of its own, over one store."""

    def __init__(self, clock: FakeClock) -> None:
        self.clock = clock
        self.store = MemoryStore(lambda: clock() + 500_000.0)
        self.store.poll = 1.0

    def process(self, secret: Any = "Kx7vQ2mZp9RtY4wLs8Ng3B6c") -> Share:
        credentials = Credentials(secret)
        requester: Any = SimpleNamespace(
            locator=SimpleNamespace(pins=None),
            authentication=SimpleNamespace(credentials=credentials, memory=SimpleNamespace()),
            identity=lambda: b"identity",
        )
        return Share(Line(self.store), requester, self.clock, LISTENER)

    def token(self, value: str, lifetime: float = 3600.0) -> AccessToken:
        now = self.clock()
        return AccessToken(value, now + lifetime - 60, now + lifetime, "scope")

    def published(self, value: str, lifetime: float = 3600.0) -> tuple[Share, AccessToken]:
        """A process that asked for this token, and the token."""
        share, token = self.process(), self.token(value, lifetime)
        assert share.look(NO_TOKEN) is None
        assert share.landed(token)
        share.publish(token)
        return share, token

    def leader_and_waiter(self) -> tuple[Share, Share]:
        """A process that asks, and one that waits for it."""
        asks, waits = self.process(), self.process()
        asks.look(NO_TOKEN)
        assert isinstance(waits.look(NO_TOKEN), Busy)
        return asks, waits

    def landed(self) -> tuple[Share, AccessToken]:
        """A process that got this token, and has not published it."""
        share, token = self.process(), self.token("token")
        share.look(NO_TOKEN)
        share.landed(token)
        return share, token

    def row(self) -> Any:
        (row,) = self.store._rows.values()
        return row

    def may_ask(self) -> bool:
        """Whether a process that comes now may ask the authorization server."""
        share = self.process()
        may = share.look(NO_TOKEN) is None
        share.leave()
        return may


@pytest.fixture
def fleet(clock: FakeClock) -> Fleet:
    return Fleet(clock)


def line(share: Share) -> Any:
    return share.tier


def seen(found: Any) -> str:
    assert isinstance(found, AccessToken)
    return found.value


def test_a_leader_that_stood_still_takes_what_came_meanwhile(fleet: Fleet) -> None:
    stood_still = fleet.process()
    assert stood_still.look(NO_TOKEN) is None
    fleet.clock.step(LEASE + 1)
    fleet.published("meanwhile")
    assert seen(stood_still.look(NO_TOKEN)) == "meanwhile"
    assert not fleet.may_ask()


def test_a_leader_that_did_not_stand_still_goes_on_without_a_look(fleet: Fleet, clock: FakeClock) -> None:
    asks = fleet.process()
    asks.look(NO_TOKEN)
    calls = len(line(asks).patient)
    for seconds in (0.0, FIRST_LEASE):
        clock.step(seconds)
        assert asks.look(NO_TOKEN) is None
    assert len(line(asks).patient) == calls


def test_a_leader_that_nobody_overtook_goes_on(fleet: Fleet) -> None:
    leads = fleet.process()
    assert leads.look(NO_TOKEN) is None
    fence = fleet.row().lease
    for pause in (0.1, FIRST_LEASE + 0.1, LEASE + 1):
        fleet.clock.step(pause)
        assert leads.look(NO_TOKEN) is None
    line(leads).is_cut = True
    fleet.clock.step(LEASE)
    assert leads.look(NO_TOKEN) is None
    assert fleet.row().lease == fence


def assert_told_once(share: Share) -> None:
    """The store knows what is void, and is told no more."""
    calls = len(line(share).patient)
    share.tell()
    assert len(line(share).patient) == calls


def assert_voided_with_all(other: Share, share: Share, token: AccessToken) -> None:
    """What `other` makes void with all else is void for `share`."""
    other.forget(NO_TOKEN, everything=True)
    other.tell()
    share.look_again(token, offer=False, distrust=False)
    assert share.is_void(token)


def test_what_one_asked_for_serves_the_others_until_its_end(fleet: Fleet, clock: FakeClock) -> None:
    share, token = fleet.published("first")
    clock.step(100)
    other = fleet.process()
    found = other.look(NO_TOKEN)
    assert found == token
    # Nobody holds the lease any more, and both know which token they hold.
    assert share.fence_of(token) == other.fence_of(token) == fleet.row().fence
    assert other.fence_of(fleet.token("strange")) == 0
    clock.step(3500)
    assert fleet.may_ask()


def test_only_a_token_that_lasts_longer_takes_the_place_of_the_held_one(fleet: Fleet) -> None:
    held = fleet.token("held", 3600)
    fleet.published("as long", 3600)
    # The same token is no news, and nor is one that ends at the same moment or sooner: it asks for one.
    assert fleet.process().look(fleet.token("as long")) is None
    fleet = Fleet(fleet.clock)
    fleet.published("as long", 3600)
    assert fleet.process().look(held) is None
    fleet = Fleet(fleet.clock)
    fleet.published("longer", 3601)
    assert seen(fleet.process().look(held)) == "longer"


def test_a_process_that_published_takes_what_another_published_later(fleet: Fleet, clock: FakeClock) -> None:
    share, first = fleet.published("first")
    clock.step(3540)
    other = fleet.process()
    # The first one is known to it, so that only a later one counts.
    assert other.look(first) is None
    other.landed(second := fleet.token("second"))
    other.publish(second)
    assert seen(share.look(first)) == "second"


class TestRefusals:
    def test_what_the_server_has_against_the_client_is_told_to_all(self, fleet: Fleet, clock: FakeClock) -> None:
        share = fleet.process()
        assert share.look(NO_TOKEN) is None
        clock.step(1)
        share.report(ERROR, NO_TOKEN, 60.0)
        other = fleet.process()
        clock.step(30)
        refused = other.look(NO_TOKEN)
        assert isinstance(refused, Refused)
        assert (str(refused.error), refused.seconds) == (str(ERROR), 30.0)
        clock.step(29.5)
        assert isinstance(refused := other.look(NO_TOKEN), Refused)
        assert refused.seconds == 0.5
        clock.step(0.5)
        assert other.look(NO_TOKEN) is None

    def test_the_answer_says_for_how_long(self, fleet: Fleet, clock: FakeClock) -> None:
        share = fleet.process()
        share.look(NO_TOKEN)
        share.report(TokenRequestError("https://as.example/token", 401, error="invalid_client"), NO_TOKEN, 60.0)
        clock.step(20)
        refused: Any = fleet.process().look(NO_TOKEN)
        assert (refused.error.error, refused.error.retry_after) == ("invalid_client", 40.0)

    @pytest.mark.parametrize("news", [None, "made up"])
    def test_a_valid_token_stays_beside_it(self, fleet: Fleet, clock: FakeClock, news: str | None) -> None:
        share, held = fleet.published("held", 100)
        clock.step(60)
        assert share.look(held) is None
        if news is not None:
            share.hear(Entry(floor=share.fence_of(held) + 50_000, generation=fleet.row().generation))
        share.report(ERROR, held, 30.0)
        other = fleet.process()
        found = other.look(NO_TOKEN)
        assert seen(found) == "held"
        assert other.fence_of(held) == share.fence_of(held) != 0
        refused = other.look(held)
        assert isinstance(refused, Refused)
        assert refused.seconds == 30.0
        # The refusal ends before the token does.
        clock.step(30)
        assert other.look(held) is None

    def test_a_valid_token_that_was_never_in_the_store_stays_beside_it(self, fleet: Fleet) -> None:
        share, held = fleet.process(), fleet.token("held")
        assert share.look(NO_TOKEN) is None
        share.report(ERROR, held, 30.0)
        assert seen(fleet.process().look(NO_TOKEN)) == "held"

    @pytest.mark.parametrize("reason", ["ended", "invalidated"])
    def test_no_token_stays_beside_it_that_is_of_no_use(self, fleet: Fleet, clock: FakeClock, reason: str) -> None:
        share, held = fleet.published("held", 100)
        clock.step(100 if reason == "ended" else 60)
        if reason == "invalidated":
            share.forget(held, everything=False)
        assert share.look(held) is None
        share.report(ERROR, held, 30.0)
        assert isinstance(fleet.process().look(NO_TOKEN), Refused)
        assert json.loads(opened(fleet)).keys() == {"refused"}

    def test_who_has_no_lease_tells_nothing(self, fleet: Fleet) -> None:
        asks, share = fleet.process(), fleet.process()
        asks.look(NO_TOKEN)
        assert isinstance(share.look(NO_TOKEN), Busy)
        share.report(ERROR, NO_TOKEN, 60.0)
        assert fleet.row().value is None

    def test_a_token_that_another_process_got_meanwhile_stays(self, fleet: Fleet) -> None:
        share = fleet.process()
        line(share).meanwhile = lambda: setattr(line(share), "is_cut", True)
        assert share.look(NO_TOKEN) is None
        _, token = fleet.published("token")
        line(share).is_cut = False
        share.report(ERROR, NO_TOKEN, 60.0)
        assert fleet.process().look(NO_TOKEN) == token

    def test_who_never_reached_the_store_tells_nothing(self, fleet: Fleet) -> None:
        share = fleet.process()
        line(share).is_cut = True
        assert share.look(NO_TOKEN) is None
        line(share).is_cut = False
        share.report(ERROR, NO_TOKEN, 60.0)
        assert fleet.may_ask()

    def test_who_forgives_asks_for_as_long_as_a_refusal_is_remembered(self, fleet: Fleet, clock: FakeClock) -> None:
        share, other = fleet.process(), fleet.process()
        share.look(NO_TOKEN)
        share.report(ERROR, NO_TOKEN, 2 * REFUSAL_MEMORY)
        assert isinstance(other.look(NO_TOKEN), Refused)
        other.forgive()
        clock.step(REFUSAL_MEMORY - 1)
        assert other.look(NO_TOKEN) is None
        other.leave()
        clock.step(1)
        assert isinstance(other.look(NO_TOKEN), Refused)


def opened(fleet: Fleet) -> bytes:
    """What the store keeps, as who has the credential reads it."""
    share, row = fleet.process(), fleet.row()
    share.look(NO_TOKEN)
    seal: Any = share._seal
    plain = seal.open(row.value, row.generation, row.fence, row.expires)
    assert plain is not None
    return plain


class TestWaiting:
    def test_one_looks_when_the_leader_may_be_gone_and_often_after_that(self, fleet: Fleet, clock: FakeClock) -> None:
        asks, waits = fleet.process(), fleet.process()
        asks.look(NO_TOKEN)
        line(asks).store.renew(asks._key, asks._lease.owner, 60.0)

        def pause() -> float:
            found = waits.look(NO_TOKEN)
            assert isinstance(found, Busy)
            return found.seconds

        assert pause() == 1.0
        clock.step(FIRST_LEASE - 0.5)
        assert pause() == 0.5
        clock.step(0.4)
        assert pause() == 0.25
        clock.step(0.1)
        # The first moment is over, and the next is farther than a poll.
        assert pause() == 1.0
        clock.step(LEASE - FIRST_LEASE)
        assert pause() == 0.25
        clock.step(0.5)
        assert pause() == 0.25
        # Another flight counts anew.
        waits.leave()
        assert pause() == 1.0

    def test_it_counts_as_waiting_until_it_leaves(self, fleet: Fleet) -> None:
        _, waits = fleet.leader_and_waiter()
        assert len(line(waits).waiting) == 1
        waits.leave()
        assert not line(waits).waiting

    def test_the_news_bring_the_token_without_a_look(self, fleet: Fleet, clock: FakeClock) -> None:
        asks, waits = fleet.leader_and_waiter()
        asks.landed(token := fleet.token("token"))
        asks.publish(token)
        row = fleet.row()
        # Whoever may publish makes up the time: no token looks younger for that.
        tell(waits, Entry(row.value, row.fence, row.expires, 0, 0, row.last, row.generation, now=0.0))
        line(waits).is_cut = True
        clock.step(100)
        assert waits.look(NO_TOKEN) == AccessToken("token", token.expires_at, token.expires_at, "scope")
        assert waits.fence_of(token) == row.fence

    def test_news_are_old_for_a_flight_that_has_not_waited(self, fleet: Fleet) -> None:
        share, _ = fleet.published("token")
        other, row = fleet.process(), fleet.row()
        assert seen(other.look(NO_TOKEN)) == "token"
        tell(other, Entry(row.value, row.fence + 1, row.expires, generation=row.generation, now=0.0))
        share.forget(fleet.token("token"), everything=True)
        share.tell()
        assert other.look(NO_TOKEN) is None

    def test_news_of_another_generation_are_not_believed(self, fleet: Fleet, clock: FakeClock) -> None:
        fleet.published("before")
        row = fleet.row()
        told = Entry(row.value, row.fence + 10_000_000, row.expires, generation=row.generation, now=row.expires - 3600)
        fleet.store.close()
        clock.step(1)
        _, waits = fleet.leader_and_waiter()
        assert told.generation != fleet.row().generation
        tell(waits, told._replace(fence=row.fence))
        assert isinstance(waits.look(NO_TOKEN), Busy)

    def test_news_that_nobody_sealed_hide_nothing(self, fleet: Fleet) -> None:
        asks, waits = fleet.leader_and_waiter()
        asks.landed(token := fleet.token("token"))
        asks.publish(token)
        row = fleet.row()
        tell(waits, Entry(b"made up", row.fence + 1, row.expires, generation=row.generation, now=0.0))
        assert seen(waits.look(NO_TOKEN)) == "token"


def tell(share: Share, entry: Entry) -> None:
    """As the tier's thread does with what it hears."""
    line(share).subscribers._told[share._key] = entry


def test_a_record_that_nobody_sealed_is_passed_over(fleet: Fleet) -> None:
    fleet.published("token")
    fleet.row().value = b"made up"
    assert fleet.process().look(NO_TOKEN) is None


def test_news_drive_out_nothing_that_this_process_invalidated(fleet: Fleet) -> None:
    share, _ = fleet.published("stored")
    first = fleet.token("first")
    for token in (first, fleet.token("second")):
        share.forget(token, everything=False)
    share.hear(Entry(void=frozenset(f"{number:024x}" for number in range(1000)), generation=fleet.row().generation))
    assert share.is_void(first)
    assert len(share._void) <= 2 * MOST_VOID


def test_a_token_of_another_generation_is_news_though_its_fence_is_smaller(fleet: Fleet) -> None:
    """A store that lost its data, and whose clock is behind."""
    share, held = fleet.published("before", 600.0)
    fleet.store = MemoryStore(fleet.clock)
    # Its generations have names of their own.
    fleet.store._generations = 100
    line(share).store = fleet.store
    fleet.published("after")
    assert fleet.row().fence < share.fence_of(held)
    assert seen(share.look(held)) == "after"


def test_a_store_that_gives_the_same_record_for_ever_is_not_asked_for_ever(fleet: Fleet) -> None:
    class Stubborn(MemoryStore):
        def claim(self, key: str, known: Known, lease: float, owner: str = "") -> Entry:
            assert known.fence <= 0, "asked once more"
            return Entry(b"made up", -5, 1e9, generation="g")

    fleet.store = Stubborn(fleet.clock)
    assert fleet.process().look(NO_TOKEN) is None


class TestFork:
    def child(self, fleet: Fleet, share: Share, token: AccessToken) -> Share:
        """`share` as it is in a child that got `token` with the fork."""
        share.after_fork_in_child()
        share.inherited = token
        return share

    def test_the_token_serves_on(self, fleet: Fleet, clock: FakeClock) -> None:
        share, token = fleet.published("token", 100)
        child = self.child(fleet, share, token)
        clock.step(99.5)
        assert child.look(token) is token
        # Once: after that the child is like any other process, and the look took no lease from others.
        assert child.inherited is None
        clock.step(0.5)
        assert fleet.may_ask()

    def test_a_token_that_ended_does_not(self, fleet: Fleet, clock: FakeClock) -> None:
        share, token = fleet.published("token", 100)
        child = self.child(fleet, share, token)
        clock.step(100)
        assert child.look(token) is None

    def test_a_token_that_was_invalidated_meanwhile_does_not(self, fleet: Fleet) -> None:
        share, token = fleet.published("token")
        other = fleet.process()
        other.look(NO_TOKEN)
        other.forget(token, everything=False)
        other.tell()
        assert self.child(fleet, share, token).look(token) is None

    def test_without_the_store_it_serves_on(self, fleet: Fleet) -> None:
        share, token = fleet.published("token")
        child = self.child(fleet, share, token)
        line(child).is_cut = True
        assert child.look(token) is token

    def test_the_lease_stays_with_the_parent(self, fleet: Fleet) -> None:
        share = fleet.process()
        assert share.look(NO_TOKEN) is None
        share.after_fork_in_child()
        assert isinstance(share.look(NO_TOKEN), Busy)


class TestVoid:
    def test_one_token(self, fleet: Fleet, clock: FakeClock) -> None:
        share, token = fleet.published("token", 100)
        other = fleet.process()
        other.look(NO_TOKEN)
        clock.step(40)
        share.forget(token, everything=False)
        assert share.is_void(token)
        assert not share.is_void(fleet.token("another"))
        assert not share.is_void(NO_TOKEN)
        share.tell()
        # The store remembers it until its end, and is told once.
        assert list(fleet.row().void.values()) == [clock() + 500_000.0 + 60]
        assert_told_once(share)
        assert other.look(NO_TOKEN) is None
        assert other.is_void(token)

    def test_a_token_without_a_fence_is_known_by_its_value_only(self, fleet: Fleet) -> None:
        share, _ = fleet.published("token")
        share.forget(NO_TOKEN, everything=True)
        share.tell()
        assert share.floor > 0
        assert not share.is_void(fleet.token("from elsewhere"))

    def test_one_that_is_invalidated_while_its_successor_lands_takes_it_not_along(self, fleet: Fleet) -> None:
        class Slow(str):
            """Another thread gets the processor while this is compared."""

            __slots__ = ()

            def __eq__(self, other: object) -> bool:
                if meanwhile:
                    meanwhile.pop()()
                return str.__eq__(self, other)

            __hash__ = str.__hash__

        share, token = fleet.published("token", 100)
        fleet.clock.step(60)
        assert share.look(token) is None
        successor = fleet.token("successor")
        meanwhile: list[Callable[[], object]] = [lambda: share.landed(successor)]
        share.forget(AccessToken(Slow("token"), token.refresh_at, token.expires_at), everything=False)
        assert not meanwhile
        assert not share.is_void(successor)
        share.publish(successor)
        assert seen(fleet.process().look(NO_TOKEN)) == "successor"

    def test_everything(self, fleet: Fleet) -> None:
        share, token = fleet.published("token")
        other = fleet.process()
        other.look(NO_TOKEN)
        share.forget(NO_TOKEN, everything=True)
        share.tell()
        assert not fleet.row().void
        assert share.is_void(token)
        assert_told_once(share)
        assert other.look(token) is None
        assert other.is_void(token)

    def test_before_the_first_look_it_is_void_here_only(self, fleet: Fleet) -> None:
        share = fleet.process()
        share.forget(fleet.token("token"), everything=False)
        share.tell()
        assert share.is_void(fleet.token("token"))
        assert not share.is_void(fleet.token("other"))
        assert not fleet.store._rows

    def test_a_token_that_ended_is_remembered_no_longer(self, fleet: Fleet, clock: FakeClock) -> None:
        share, token = fleet.published("token", 100)
        clock.step(100)
        share.forget(token, everything=False)
        share.tell()
        assert list(fleet.row().void.values()) == [clock() + 500_000.0]
        assert not share._void

    def test_the_store_is_told_as_soon_as_it_answers(self, fleet: Fleet) -> None:
        share, token = fleet.published("token")
        line(share).is_cut = True
        share.forget(token, everything=False)
        share.tell()
        assert share in line(share)._tellers
        line(share).is_cut = False
        share.tell()
        assert fleet.process().look(NO_TOKEN) is None

    def test_after_a_loss_of_data_it_is_told_again_and_only_by_who_knows_its_end(self, fleet: Fleet) -> None:
        share, token = fleet.published("token")
        other = fleet.process()
        other.look(NO_TOKEN)
        share.forget(token, everything=False)
        share.tell()
        other.look_again(token, offer=False, distrust=False)
        assert other.is_void(token)
        fleet.store.close()
        assert fleet.may_ask()
        other.look_again(NO_TOKEN, offer=False, distrust=False)
        other.tell()
        assert not fleet.row().void
        share.look_again(NO_TOKEN, offer=False, distrust=False)
        share.tell()
        assert len(fleet.row().void) == 1

    def test_it_is_not_published(self, fleet: Fleet) -> None:
        share, token = fleet.landed()
        share.forget(token, everything=False)
        share.publish(token)
        assert fleet.row().value is None
        # The lease is free for the next one.
        assert fleet.may_ask()


class TestNews:
    def test_what_they_tell_counts_until_the_next_look(self, fleet: Fleet, clock: FakeClock) -> None:
        share, token = fleet.published("token")
        fence = share.fence_of(token)
        share.hear(Entry(floor=fence - 1, generation=fleet.row().generation))
        assert not share.is_void(token)
        share.hear(Entry(floor=fence, generation=fleet.row().generation))
        assert share.is_void(token)
        clock.step(1)
        share.look_again(token, offer=False, distrust=False)
        assert not share.is_void(token)

    def test_what_they_tell_while_the_store_is_asked_counts(self, fleet: Fleet) -> None:
        share, token = fleet.published("token")
        share.look_again(token, offer=False, distrust=False)
        # The clock stands: it may have been told after the answer was made.
        share.hear(Entry(floor=share.fence_of(token), generation=fleet.row().generation))
        assert share.is_void(token)

    def test_what_they_tell_of_another_generation_does_not(self, fleet: Fleet) -> None:
        share, token = fleet.published("token")
        share.hear(Entry(floor=share.fence_of(token), generation="another"))
        assert not share.is_void(token)

    @pytest.mark.parametrize("ahead", [0, 10])
    def test_the_store_does_not_bring_back_what_they_told_meanwhile(self, fleet: Fleet, ahead: int) -> None:
        share, token = fleet.published("token")
        other = fleet.process()
        other.look_again(NO_TOKEN, offer=False, distrust=False)
        assert seen(other.look(NO_TOKEN)) == "token"
        other.hear(Entry(floor=share.fence_of(token) + ahead, generation=fleet.row().generation))
        assert other.look(fleet.token("held", 100)) is None

    def test_the_store_does_not_bring_back_one_that_they_told_of_by_its_value(self, fleet: Fleet) -> None:
        share, token = fleet.published("token")
        other = fleet.process()
        assert seen(other.look(NO_TOKEN)) == "token"
        seal: Any = share._seal
        other.hear(Entry(generation="another", void=frozenset({seal.digest("token")})))
        assert other.is_void(token)
        assert other.look(fleet.token("held", 100)) is None

    def test_less_than_they_told_before_takes_nothing_back(self, fleet: Fleet) -> None:
        share, token = fleet.published("token")
        share.hear(Entry(floor=share.fence_of(token), generation=fleet.row().generation))
        share.hear(Entry(floor=1, generation=fleet.row().generation))
        assert share.is_void(token)


class TestMadeUpFloors:
    def test_a_look_shows_that_what_was_asked_for_may_be_used(self, fleet: Fleet, clock: FakeClock) -> None:
        share = fleet.process()
        share.look(NO_TOKEN)
        clock.step(1)
        share.hear(Entry(floor=share._lease.fence, generation=fleet.row().generation))
        assert not share.landed(fleet.token("token"))
        clock.step(1)
        share.make_sure()
        assert share.landed(fleet.token("token"))

    def test_nobody_looks_without_a_reason(self, fleet: Fleet) -> None:
        share = fleet.process()
        share.look(NO_TOKEN)
        calls = len(line(share).patient)
        share.make_sure()
        share.hear(Entry(floor=share._lease.fence - 1, generation=fleet.row().generation))
        share.make_sure()
        share.leave()
        calls += 1
        share.make_sure()
        assert len(line(share).patient) == calls
        # Without a lease there is nothing that others could have made void.
        assert share.landed(fleet.token("token"))

    def test_they_keep_no_token_from_being_stored(self, fleet: Fleet) -> None:
        share, token = fleet.landed()
        share.hear(Entry(floor=share._lease.fence, generation=fleet.row().generation))
        share.publish(token)
        assert fleet.row().value is not None

    def test_the_look_takes_no_lease(self, fleet: Fleet, clock: FakeClock) -> None:
        share = fleet.process()
        share.look(NO_TOKEN)
        clock.step(LEASE)
        share.hear(Entry(floor=share._lease.fence, generation=fleet.row().generation))
        share.make_sure()
        assert fleet.may_ask()


class TestPublishing:
    def test_without_a_lease_it_takes_one_that_is_free(self, fleet: Fleet) -> None:
        share, token = fleet.process(), fleet.token("token")
        line(share).is_cut = True
        assert share.look(NO_TOKEN) is None
        assert share.landed(token)
        line(share).is_cut = False
        share.publish(token)
        other = fleet.process()
        assert other.look(NO_TOKEN) == token
        # It is one of the fleet's tokens now: what makes all of them void makes it void.
        assert_voided_with_all(other, share, token)

    @pytest.mark.parametrize(("lifetime", "kept"), [(3599.0, "new"), (3600.0, "old"), (3601.0, "old")])
    def test_it_takes_the_place_of_one_that_ends_earlier(self, fleet: Fleet, lifetime: float, kept: str) -> None:
        fleet.published("old", lifetime)
        share, token = fleet.process(), fleet.token("new")
        line(share).is_cut = True
        assert share.look(NO_TOKEN) is None
        assert share.landed(token)
        line(share).is_cut = False
        share.publish(token)
        found = fleet.process().look(NO_TOKEN)
        assert isinstance(found, AccessToken)
        assert found.value == kept

    @pytest.mark.parametrize("lifetime", [0.0, 3599.0])
    def test_it_takes_the_place_of_a_refusal(self, fleet: Fleet, lifetime: float) -> None:
        other, held = fleet.published("old", lifetime) if lifetime else (fleet.process(), NO_TOKEN)
        assert other.look(held) is None
        other.report(ERROR, held, REFUSAL_MEMORY)
        share, token = fleet.process(), fleet.token("new")
        line(share).is_cut = True
        assert share.look(NO_TOKEN) is None
        assert share.landed(token)
        line(share).is_cut = False
        share.publish(token)
        assert fleet.process().look(NO_TOKEN) == token
        # What was stored says nothing of this process any more.
        share.forget(token, everything=False)
        share.tell()
        assert share.look(NO_TOKEN) is None

    def test_it_waits_out_a_first_failure_of_the_store(self, fleet: Fleet) -> None:
        share, token = fleet.process(), fleet.token("token")
        line(share).is_cut = True
        assert share.look(NO_TOKEN) is None
        assert share.landed(token)
        line(share).recovers = True
        share.publish(token)
        assert fleet.process().look(NO_TOKEN) == token

    @pytest.mark.parametrize("everything", [False, True])
    def test_what_was_invalidated_before_the_store_was_reached_stays_out_of_it(
        self, fleet: Fleet, everything: bool
    ) -> None:
        share, token = fleet.process(), fleet.token("token")
        line(share).is_cut = True
        assert share.look(NO_TOKEN) is None
        assert share.landed(token)
        share.forget(token, everything=everything)
        line(share).is_cut = False
        share.publish(token)
        assert fleet.may_ask()

    def test_a_lease_that_a_flight_gets_meanwhile_is_kept(self, fleet: Fleet) -> None:
        share, token = fleet.landed()
        line(share).meanwhile = lambda: share._claim(fleet.row().fence)
        share.publish(token)
        assert share.look(token) is None
        assert isinstance(fleet.process().look(token), Busy)

    def test_without_the_store_it_does_nothing(self, fleet: Fleet) -> None:
        share, token = fleet.process(), fleet.token("token")
        line(share).is_cut = True
        assert share.look(NO_TOKEN) is None
        share.landed(token)
        share.publish(token)
        line(share).is_cut = False
        assert fleet.may_ask()

    def test_once_the_store_went_away_it_does_nothing(self, fleet: Fleet) -> None:
        share, first = fleet.published("first")
        line(share).is_cut = True
        share.publish(fleet.token("second"))
        line(share).is_cut = False
        assert fleet.process().look(NO_TOKEN) == first

    def test_another_ones_lease_is_respected(self, fleet: Fleet) -> None:
        asks, share, token = fleet.process(), fleet.process(), fleet.token("token")
        asks.look(NO_TOKEN)
        assert isinstance(share.look(NO_TOKEN), Busy)
        share.landed(token)
        share.publish(token)
        assert fleet.row().value is None

    def test_a_lease_of_another_generation_is_given_back(self, fleet: Fleet) -> None:
        share, token = fleet.landed()
        fleet.store.close()
        assert fleet.may_ask()
        # What it hears of the entry now is of the other generation.
        share._claim(0, lease=False)
        share.publish(token)
        assert fleet.process().look(NO_TOKEN) == token

    def test_a_write_that_is_refused_gives_the_lease_back(self, fleet: Fleet) -> None:
        share, token = fleet.landed()
        # Others forgot everything, and the news did not come.
        other = fleet.process()
        other.look(NO_TOKEN)
        other.forget(NO_TOKEN, everything=True)
        other.tell()
        share.publish(token)
        assert fleet.row().value is None
        assert fleet.may_ask()

    def test_a_credential_that_cannot_be_read_any_more_gives_the_lease_back(self, fleet: Fleet) -> None:
        def secret() -> str:
            if is_gone:
                raise OSError("gone")
            return "Kx7vQ2mZp9RtY4wLs8Ng3B6c"

        is_gone = False
        share, token = fleet.process(secret), fleet.token("token")
        share.look(NO_TOKEN)
        is_gone = True
        share.publish(token)
        assert fleet.row().value is None
        assert fleet.may_ask()

    def test_what_nobody_waits_for_has_time(self, fleet: Fleet) -> None:
        share, token = fleet.process(), fleet.token("token")
        share.look(NO_TOKEN)
        del line(share).patient[:]
        share.publish(token)
        assert line(share).patient == [True]
        share.forget(token, everything=False)
        share.tell()
        assert line(share).patient == [True, True]


class TestLookingAgain:
    def test_a_store_that_lost_the_token_gets_it_back(self, fleet: Fleet) -> None:
        share, token = fleet.published("token")
        fleet.store.close()
        share.look_again(token, offer=True, distrust=False)
        other = fleet.process()
        assert other.look(NO_TOKEN) == token
        assert_voided_with_all(other, share, token)

    @pytest.mark.parametrize("reason", ["not offered", "void", "cut", "never asked", "asks"])
    def test_it_does_not_where(self, fleet: Fleet, reason: str) -> None:
        share, token = fleet.published("token")
        fleet.store.close()
        if reason == "void":
            share.forget(token, everything=False)
        elif reason == "never asked":
            share = fleet.process()
        elif reason == "asks":
            assert share.look(token) is None
        line(share).is_cut = reason == "cut"
        share.look_again(token, offer=reason != "not offered", distrust=False)
        assert not any(row.value for row in fleet.store._rows.values())
        if reason != "asks":
            assert fleet.may_ask()

    @pytest.mark.parametrize(("longer", "is_offered"), [(0.5, False), (1.0, False), (1.5, True)])
    def test_one_that_lasts_longer_takes_the_place_of_what_is_there(
        self, fleet: Fleet, longer: float, is_offered: bool
    ) -> None:
        share, _ = fleet.published("there", 3600)
        share.look_again(fleet.token("held", 3600 + longer), offer=True, distrust=False)
        assert seen(fleet.process().look(NO_TOKEN)) == ("held" if is_offered else "there")

    def test_where_its_clock_went_back_a_generation_begins_once(self, fleet: Fleet) -> None:
        share, token = fleet.published("token")
        other = fleet.process()
        other.look(NO_TOKEN)
        before = fleet.row().generation
        share.look_again(token, offer=False, distrust=True)
        begun = fleet.row().generation
        assert begun != before
        other.look_again(token, offer=False, distrust=True)
        assert fleet.row().generation == begun
        # And nobody keeps a lease for that.
        assert fleet.may_ask()

    def test_a_look_that_a_flight_overtook_is_made_again_and_takes_no_lease(self, fleet: Fleet) -> None:
        share, token = fleet.published("token")

        def lose_and_learn() -> None:
            fleet.store.close()
            assert fleet.may_ask()
            share._claim(0, lease=False)

        line(share).meanwhile = lose_and_learn
        share.look_again(token, offer=False, distrust=False)
        assert share._known.generation == fleet.row().generation
        assert fleet.may_ask()

    def test_without_the_store_none_begins(self, fleet: Fleet) -> None:
        share, token = fleet.published("token")
        line(share).is_cut = True
        share.look_again(token, offer=True, distrust=True)
        assert fleet.row().generation == "1" or fleet.row().value


def test_a_rotated_credential_finds_nothing_and_voids_nothing(fleet: Fleet) -> None:
    secret = "Kx7vQ2mZp9RtY4wLs8Ng3B6c"
    share, token = fleet.process(lambda: secret), fleet.token("token")
    share.look(NO_TOKEN)
    share.landed(token)
    share.publish(token)
    share.hear(Entry(floor=fleet.row().last + 10, generation=fleet.row().generation))
    secret = "Zx7vQ2mZp9RtY4wLs8Ng3B6d"
    assert share.look(NO_TOKEN) is None
    again = fleet.token("again")
    assert share.landed(again)
    share.publish(again)
    assert not share.is_void(again)
    secret = "Kx7vQ2mZp9RtY4wLs8Ng3B6c"
    assert fleet.process().look(NO_TOKEN) == token
