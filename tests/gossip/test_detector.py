"""ana watches the others. An interval is 1,000 ms: silent for one is a heartbeat missed, silent for three is failed."""

import pytest

from mesh.config import GossipConfig
from mesh.gossip import Change, Detector, Health, MemberState
from mesh.ids import Incarnation, NodeId
from mesh.messages import PeerView
from tests.gossip.cast import ANA, BEN, DAN, EVA, FAY, beat

HEALTHY, DEGRADED, FAILED, RECOVERING = Health
CONFIG = GossipConfig(heartbeat_interval_ms=1_000, failure_threshold=3, recovery_heartbeats=2, link_grace_ms=150)


def watch(*others: NodeId, config: GossipConfig = CONFIG, now_ms: int = 0) -> Detector:
    return Detector(config, ANA, "c", [(name, f"{name}:1") for name in (ANA, *others)], now_ms)


def change(node_id: NodeId, before: Health, after: Health, why: str, incarnation: int = 1) -> Change:
    return Change(node_id, Incarnation(incarnation), before, after, why)


# --- silence ----------------------------------------------------------------------------------------------------------


def test_a_node_fails_at_exactly_the_third_missed_heartbeat() -> None:
    """S0-13: ben speaks once, at 200, and never again. Each missed heartbeat is noticed on its millisecond."""
    detector = watch(BEN)
    assert detector.heard(beat(BEN, 1), 200)
    assert detector.tick(200) == []

    # The first was sent by 1,100 at the latest, if at all: at 1,200 it is missed, with no further slack.
    assert detector.next_deadline_ms() == 1_200
    assert detector.tick(1_199) == []
    assert detector.tick(1_200) == [change(BEN, HEALTHY, DEGRADED, "missed a heartbeat")]

    # The second changes nothing more.
    assert detector.next_deadline_ms() == 2_200
    assert detector.tick(2_200) == []
    assert detector.health(BEN) is DEGRADED

    # The third is the failure, not a millisecond sooner; after it there is nobody left to judge.
    assert detector.next_deadline_ms() == 3_200
    assert detector.tick(3_199) == []
    assert detector.tick(3_200) == [change(BEN, DEGRADED, FAILED, "missed 3 heartbeats")]
    assert detector.next_deadline_ms() is None
    assert detector.tick(99_000) == []


@pytest.mark.parametrize(("threshold", "failed_at_ms"), [(2, 2_000), (3, 3_000), (5, 5_000)])
def test_the_threshold_is_counted_as_configured(threshold: int, failed_at_ms: int) -> None:
    """S0-13 for other thresholds; a watch nobody looked at in between reaches the same verdict at once."""
    detector = watch(BEN, config=GossipConfig(heartbeat_interval_ms=1_000, failure_threshold=threshold))
    detector.heard(beat(BEN, 1), 0)
    detector.tick(failed_at_ms - 1)
    assert detector.health(BEN) is DEGRADED
    assert detector.tick(failed_at_ms) == [change(BEN, DEGRADED, FAILED, f"missed {threshold} heartbeats")]

    unattended = watch(BEN, config=GossipConfig(heartbeat_interval_ms=1_000, failure_threshold=threshold))
    unattended.heard(beat(BEN, 1), 0)
    assert unattended.tick(failed_at_ms) == [change(BEN, HEALTHY, FAILED, f"missed {threshold} heartbeats")]


def test_two_missed_and_a_third_on_time_is_no_failure() -> None:
    """ben loses two heartbeats in a row, again and again. He is never failed, and healthy as soon as he is heard."""
    detector = watch(BEN)
    for sequence in range(1, 6):
        now_ms = 3_000 * sequence
        detector.tick(now_ms - 1)
        assert detector.health(BEN) is DEGRADED
        assert detector.heard(beat(BEN, 3 * sequence), now_ms)
        assert detector.next_deadline_ms() == now_ms, "a change waits to be told"
        assert detector.tick(now_ms) == [change(BEN, DEGRADED, HEALTHY, "heard again")]
    state = detector.member(BEN)
    assert state is not None
    assert state.failure_count == 0


def test_a_node_never_heard_is_judged_from_the_start_of_the_watch() -> None:
    """The watch begins at 500. eva never comes, and nobody knows which of her incarnations that was."""
    detector = watch(EVA, now_ms=500)
    assert detector.silence_ms(EVA, 700) == 200
    assert detector.tick(1_499) == []
    assert detector.tick(1_500) == [change(EVA, HEALTHY, DEGRADED, "missed a heartbeat", incarnation=0)]
    assert detector.tick(3_499) == []
    assert detector.tick(3_500) == [change(EVA, DEGRADED, FAILED, "missed 3 heartbeats", incarnation=0)]


def test_our_own_node_is_always_healthy() -> None:
    """ana alone: nobody to judge, nothing to wait for; her own heartbeat is not news to her."""
    detector = watch()
    assert detector.next_deadline_ms() is None
    assert not detector.heard(beat(ANA, 1), 0)
    assert detector.tick(1_000_000) == []
    assert detector.health(ANA) is HEALTHY
    assert detector.silence_ms(ANA, 1_000_000) == 0
    assert detector.healthy_ids() == (ANA,)
    assert detector.views() == ()


# --- recovery ---------------------------------------------------------------------------------------------------------


def test_a_failed_node_that_speaks_recovers_by_itself() -> None:
    """S0-03: ben is given up, returns as the same process, and is healthy after two heartbeats in a row."""
    detector = watch(BEN)
    detector.heard(beat(BEN, 1), 0)
    detector.tick(3_000)

    assert detector.heard(beat(BEN, 9), 5_000)
    assert detector.tick(5_000) == [change(BEN, FAILED, RECOVERING, "heard again")]
    assert detector.heard(beat(BEN, 10), 6_000)
    assert detector.tick(6_000) == [change(BEN, RECOVERING, HEALTHY, "recovered")]
    assert detector.member(BEN) == MemberState(
        BEN,
        "ben:1",
        awaited_ms=6_000,
        last=beat(BEN, 10),
        incarnation=Incarnation(1),
        heard_ms=6_000,
        failure_count=1,
        recovered_beats=2,
    )


def test_recovery_starts_over_after_a_missed_heartbeat() -> None:
    """ben recovers but stumbles: the two heartbeats must come in a row. Falling silent altogether fails him again."""
    detector = watch(BEN)
    detector.tick(3_000)
    detector.heard(beat(BEN, 1), 4_000)
    assert detector.tick(5_000) == [change(BEN, FAILED, RECOVERING, "heard again")]

    # One was missed at 5,000, so the one at 5,500 is the first again.
    detector.heard(beat(BEN, 3), 5_500)
    assert detector.tick(5_500) == []
    detector.heard(beat(BEN, 4), 6_400)
    assert detector.tick(6_400) == [change(BEN, RECOVERING, HEALTHY, "recovered")]

    detector.tick(9_400)
    detector.heard(beat(BEN, 5), 10_000)
    assert detector.tick(13_000) == [
        change(BEN, FAILED, RECOVERING, "heard again"),
        change(BEN, RECOVERING, FAILED, "missed 3 heartbeats"),
    ]
    state = detector.member(BEN)
    assert state is not None
    assert state.failure_count == 3


def test_one_heartbeat_may_be_all_it_takes() -> None:
    """With recovery_heartbeats=1 both steps are told, in order."""
    detector = watch(BEN, config=GossipConfig(heartbeat_interval_ms=1_000, recovery_heartbeats=1))
    detector.heard(beat(BEN, 1), 0)
    detector.tick(3_000)
    detector.heard(beat(BEN, 2), 4_000)
    assert detector.tick(4_000) == [
        change(BEN, FAILED, RECOVERING, "heard again"),
        change(BEN, RECOVERING, HEALTHY, "recovered"),
    ]


# --- what is not listened to ------------------------------------------------------------------------------------------


def test_what_is_old_repeated_or_not_ours_is_dropped() -> None:
    """Only a newer word of a member of our own mesh counts; the rest does not even break a silence."""
    detector = watch(BEN)
    assert detector.heard(beat(BEN, 5, incarnation=2), 100)
    for rubbish in (
        beat(BEN, 5, incarnation=2),
        beat(BEN, 4, incarnation=2),
        beat(BEN, 99, incarnation=1),
        beat(BEN, 6, incarnation=2, cluster="another"),
        beat(NodeId("nobody"), 1),
        beat(ANA, 1),
    ):
        assert not detector.heard(rubbish, 1_000)
    assert detector.silence_ms(BEN, 1_000) == 900
    assert detector.next_deadline_ms() == 1_100
    assert detector.heard(beat(BEN, 6, incarnation=2), 1_000)


# --- restarts ---------------------------------------------------------------------------------------------------------


def test_a_restart_too_quick_to_be_missed_is_noticed() -> None:
    """ben is killed and back within a second. His sequence starts over; the new process must show itself first."""
    detector = watch(BEN)
    detector.heard(beat(BEN, 700), 0)
    assert detector.heard(beat(BEN, 1, incarnation=2), 600)
    assert detector.tick(600) == [change(BEN, HEALTHY, RECOVERING, "restarted", incarnation=2)]

    # The last words of the old process come late, and mean nothing.
    assert not detector.heard(beat(BEN, 701), 610)
    assert detector.heard(beat(BEN, 2, incarnation=2), 1_500)
    assert detector.tick(1_500) == [change(BEN, RECOVERING, HEALTHY, "recovered", incarnation=2)]


def test_a_failed_node_may_come_back_as_another_process() -> None:
    detector = watch(BEN)
    detector.heard(beat(BEN, 700), 0)
    detector.tick(3_000)
    assert detector.heard(beat(BEN, 1, incarnation=2), 9_000)
    assert detector.tick(9_000) == [change(BEN, FAILED, RECOVERING, "heard again", incarnation=2)]


def test_a_link_may_tell_of_a_restart_before_any_heartbeat() -> None:
    """The handshake names incarnation 2: ben is new, and has a whole silence limit from there."""
    detector = watch(BEN)
    detector.heard(beat(BEN, 700), 0)
    detector.link_up(BEN, Incarnation(1), 0)
    detector.link_down(BEN, 900)
    detector.link_up(BEN, Incarnation(2), 1_000)
    assert detector.tick(1_000) == [change(BEN, HEALTHY, RECOVERING, "restarted", incarnation=2)]
    assert detector.views() == (PeerView(BEN, Incarnation(2), RECOVERING, True),)
    assert detector.silence_ms(BEN, 1_000) == 1_000, "the age of the last heartbeat, whoever sent it"

    assert detector.tick(3_999) == []
    assert detector.tick(4_000) == [change(BEN, RECOVERING, FAILED, "missed 3 heartbeats", incarnation=2)]

    # One that has failed stays so until it is heard.
    detector.link_up(BEN, Incarnation(3), 5_000)
    assert detector.tick(5_000) == []
    assert detector.health(BEN) is FAILED


def test_the_link_to_an_old_process_says_nothing() -> None:
    """ben's second process is known by its heartbeat; a handshake with the first is late, as is its end."""
    detector = connected(BEN)
    detector.heard(beat(BEN, 1, incarnation=2), 600)
    assert detector.views() == (PeerView(BEN, Incarnation(2), RECOVERING, False),), "the link was to the old process"
    detector.link_up(BEN, Incarnation(1), 610)
    detector.link_down(BEN, 620)
    assert detector.views() == (PeerView(BEN, Incarnation(2), RECOVERING, False),)
    assert not detector.take_urgent()


def test_a_link_lost_to_the_old_process_is_no_verdict_on_the_new() -> None:
    """eva restarts while her broken link is being timed: ben's trouble with the new eva is not ana's."""
    detector = connected(BEN, EVA)
    detector.link_down(EVA, 500)
    detector.heard(beat(EVA, 1, incarnation=2), 510)
    detector.heard(beat(BEN, 2, lost=(EVA,), lost_incarnation=2), 520)
    assert detector.tick(700) == [change(EVA, HEALTHY, RECOVERING, "restarted", incarnation=2)]


def test_the_first_contact_is_no_restart() -> None:
    """Whether by link or by heartbeat: who is heard for the first time is simply there."""
    detector = watch(BEN, EVA)
    detector.link_up(BEN, Incarnation(7), 10)
    detector.heard(beat(BEN, 1, incarnation=7), 20)
    detector.heard(beat(EVA, 1, incarnation=4), 20)
    assert detector.tick(20) == []
    assert detector.healthy_ids() == (ANA, BEN, EVA)
    assert detector.views() == (
        PeerView(BEN, Incarnation(7), HEALTHY, True),
        PeerView(EVA, Incarnation(4), HEALTHY, False),
    )


# --- links ------------------------------------------------------------------------------------------------------------


def connected(*others: NodeId) -> Detector:
    """ana has heard everybody once, at 0, and has a link to each."""
    detector = watch(*others)
    for name in others:
        detector.heard(beat(name, 1), 0)
        detector.link_up(name, Incarnation(1), 0)
    assert detector.tick(0) == []
    return detector


def test_a_killed_node_is_given_up_in_milliseconds() -> None:
    """eva's process dies at 500. ana's link breaks, ben says his did too: at 650 that is a verdict."""
    detector = connected(BEN, EVA)
    detector.link_down(EVA, 500)
    assert detector.take_urgent(), "the others want to hear of it now"
    assert not detector.take_urgent()
    assert detector.next_deadline_ms() == 650, "nobody else has said anything yet: then it will be said again"

    detector.heard(beat(BEN, 2, lost=(EVA,)), 503)
    assert detector.next_deadline_ms() == 650
    assert detector.tick(649) == []
    assert detector.tick(650) == [change(EVA, HEALTHY, FAILED, "link lost")]
    assert detector.views() == (
        PeerView(BEN, Incarnation(1), HEALTHY, True),
        PeerView(EVA, Incarnation(1), FAILED, False),
    )


def test_a_link_that_comes_back_in_time_cancels_the_verdict() -> None:
    detector = connected(BEN, EVA)
    detector.link_down(EVA, 500)
    detector.heard(beat(BEN, 2, lost=(EVA,)), 503)
    detector.link_up(EVA, Incarnation(1), 649)
    assert detector.next_deadline_ms() == 1_000
    assert detector.tick(650) == []
    assert detector.health(EVA) is HEALTHY


def test_one_broken_link_is_nobodys_death() -> None:
    """Only ana lost eva; ben still has her, and ana hears her heartbeats. A minority's trouble is the minority's."""
    detector = connected(BEN, EVA)
    detector.link_down(EVA, 500)
    detector.heard(beat(BEN, 2), 900)
    detector.heard(beat(EVA, 2), 950)
    assert detector.tick(1_500) == []
    assert detector.healthy_ids() == (ANA, BEN, EVA)

    # Were her heartbeats lost as well, silence would decide, at its own pace.
    detector.heard(beat(BEN, 3), 1_800)
    assert detector.tick(1_949) == []
    assert detector.tick(1_950) == [change(EVA, HEALTHY, DEGRADED, "missed a heartbeat")]


def test_the_others_broken_links_are_not_ours() -> None:
    """ben lost eva; ana did not. There is no verdict without our own evidence."""
    detector = connected(BEN, EVA)
    detector.heard(beat(BEN, 2, lost=(EVA,)), 500)
    assert detector.tick(900) == []
    assert detector.next_deadline_ms() == 1_000


def test_a_majority_is_of_all_members() -> None:
    """Five nodes, eva dies: ana and ben are two of five. It takes dan as well."""
    detector = connected(BEN, DAN, EVA, FAY)
    detector.link_down(EVA, 500)
    detector.heard(beat(BEN, 2, lost=(EVA,)), 510)
    detector.heard(beat(FAY, 2, lost=(DAN,)), 510)
    assert detector.tick(800) == []
    detector.heard(beat(DAN, 2, lost=(FAY, EVA)), 810)
    assert detector.next_deadline_ms() == 650, "overdue: the grace is over, only the majority was missing"
    assert detector.tick(810) == [change(EVA, HEALTHY, FAILED, "link lost")]


def test_two_nodes_cannot_tell_which_of_them_is_cut_off() -> None:
    """In a mesh of two, one is no majority: only the silence limit decides."""
    detector = connected(BEN)
    detector.link_down(BEN, 500)
    assert detector.tick(650) == []
    assert detector.next_deadline_ms() == 1_000
    assert detector.tick(999) == []


def test_a_link_still_broken_after_its_grace_is_told_a_second_time() -> None:
    """ben lost eva a moment before ana did, so ana could not count what he said; he says it again, once, and so does
    she."""
    detector = connected(BEN, EVA)
    detector.heard(beat(BEN, 2, lost=(EVA,)), 499)
    detector.link_down(EVA, 500)
    assert detector.take_urgent()
    assert (detector.tick(649), detector.take_urgent()) == ([], False)
    assert (detector.tick(650), detector.take_urgent()) == ([], True)
    assert (detector.tick(651), detector.take_urgent()) == ([], False)
    detector.heard(beat(BEN, 3, lost=(EVA,)), 652)
    assert detector.tick(652) == [change(EVA, HEALTHY, FAILED, "link lost")]


def test_what_was_said_before_our_link_broke_does_not_count() -> None:
    """ben complained of eva earlier, about something else; also within the same millisecond."""
    detector = connected(BEN, EVA)
    detector.heard(beat(BEN, 2, lost=(EVA,)), 500)
    detector.link_down(EVA, 500)
    assert detector.tick(700) == []
    assert detector.next_deadline_ms() == 1_000

    # His next word takes it back.
    detector.heard(beat(BEN, 3), 710)
    assert detector.tick(710) == []


def test_what_is_said_of_an_older_process_does_not_count() -> None:
    """eva is at her second incarnation. ben, who has not noticed, reports the end of the first."""
    detector = connected(BEN, EVA)
    detector.link_up(EVA, Incarnation(2), 400)
    detector.heard(beat(EVA, 1, incarnation=2), 400)
    detector.link_down(EVA, 500)
    detector.heard(beat(BEN, 2, lost=(EVA,)), 510)
    assert detector.tick(700) == [change(EVA, HEALTHY, RECOVERING, "restarted", incarnation=2)]


def test_a_witness_that_restarted_has_seen_nothing() -> None:
    """ben's complaint dies with his process: the new one has said nothing yet."""
    detector = connected(BEN, EVA)
    detector.link_down(EVA, 500)
    detector.heard(beat(BEN, 2, lost=(EVA,)), 510)
    detector.link_up(BEN, Incarnation(2), 600)
    assert detector.tick(700) == [change(BEN, HEALTHY, RECOVERING, "restarted", incarnation=2)]


def test_a_node_out_of_reach_of_the_majority_stays_failed() -> None:
    """eva still publishes, but ana and ben have no link to her: she could be granted nothing, and does not flap.

    Once her link to ana is back her next heartbeat counts again.
    """
    detector = connected(BEN, EVA)
    detector.link_down(EVA, 500)
    detector.heard(beat(BEN, 2, lost=(EVA,)), 510)
    detector.tick(650)

    assert detector.heard(beat(EVA, 2), 1_000)
    assert detector.tick(1_000) == []
    assert detector.health(EVA) is FAILED

    detector.link_up(EVA, Incarnation(1), 1_500)
    assert detector.tick(1_500) == []
    detector.heard(beat(EVA, 3), 2_000)
    assert detector.tick(2_000) == [
        change(EVA, FAILED, RECOVERING, "heard again"),
        change(BEN, HEALTHY, DEGRADED, "missed a heartbeat"),
    ]


def test_what_was_shown_before_a_failure_is_forgotten() -> None:
    """eva is cut off in the middle of recovering: afterwards she must show two heartbeats again."""
    detector = connected(BEN, EVA)
    detector.heard(beat(EVA, 1, incarnation=2), 100)
    detector.link_up(EVA, Incarnation(2), 100)
    detector.link_down(EVA, 500)
    detector.heard(beat(BEN, 2, lost=(EVA,), lost_incarnation=2), 510)
    detector.tick(650)
    assert detector.health(EVA) is FAILED

    detector.link_up(EVA, Incarnation(2), 700)
    detector.heard(beat(EVA, 2, incarnation=2), 800)
    assert detector.tick(800) == [change(EVA, FAILED, RECOVERING, "heard again", incarnation=2)]
    detector.heard(beat(EVA, 3, incarnation=2), 900)
    assert detector.tick(900) == [change(EVA, RECOVERING, HEALTHY, "recovered", incarnation=2)]


def test_links_of_strangers_and_links_that_never_stood_say_nothing() -> None:
    detector = watch(BEN)
    detector.link_down(BEN, 100)
    detector.link_up(NodeId("nobody"), Incarnation(1), 100)
    detector.link_down(NodeId("nobody"), 100)
    detector.link_down(ANA, 100)
    assert not detector.take_urgent()
    assert detector.views() == (PeerView(BEN, Incarnation(0), HEALTHY, False),)
    assert detector.member(NodeId("nobody")) is None
    with pytest.raises(KeyError):
        detector.health(NodeId("nobody"))


def test_a_link_that_breaks_twice_is_timed_from_the_first() -> None:
    detector = connected(BEN, EVA)
    detector.link_down(EVA, 500)
    detector.link_down(EVA, 600)
    detector.heard(beat(BEN, 2, lost=(EVA,)), 610)
    assert detector.next_deadline_ms() == 650


# --- our own lateness -------------------------------------------------------------------------------------------------


def test_who_slept_judges_nobody_until_it_has_listened() -> None:
    """ana is paused from 100 to 60,000. Without the guard everyone would be dead; with it everyone has one interval."""
    careless = connected(BEN, EVA)
    assert [verdict.after for verdict in careless.tick(60_000)] == [FAILED, FAILED]

    detector = connected(BEN, EVA)
    detector.was_late(60_000)
    assert detector.next_deadline_ms() == 61_000
    assert detector.tick(60_000) == []
    assert detector.silence_ms(BEN, 60_000) == 60_000, "the age of the last heartbeat is told as it is"

    # ben is heard again; eva did die in the meantime, and is noticed from here on.
    detector.heard(beat(BEN, 61), 60_400)
    assert detector.tick(60_999) == []
    assert detector.tick(61_000) == [change(EVA, HEALTHY, DEGRADED, "missed a heartbeat")]
    assert detector.tick(62_999) == [change(BEN, HEALTHY, DEGRADED, "missed a heartbeat")]
    assert detector.tick(63_000) == [change(EVA, DEGRADED, FAILED, "missed 3 heartbeats")]


def test_what_was_missed_before_we_slept_stays_missed() -> None:
    """ben had missed two when ana slept: he has one more interval, not three."""
    detector = connected(BEN)
    detector.tick(2_000)
    detector.was_late(50_000)
    assert detector.tick(50_999) == []
    assert detector.tick(51_000) == [change(BEN, DEGRADED, FAILED, "missed 3 heartbeats")]

    # A verdict once given is not touched by a later sleep.
    detector.was_late(90_000)
    assert detector.next_deadline_ms() is None


def test_a_sleep_that_cost_nobody_anything_moves_nothing() -> None:
    """ana was late at 400 and gave ben until 1,400. Late again at 1,399, she gives no more."""
    detector = connected(BEN)
    detector.was_late(400)
    assert detector.next_deadline_ms() == 1_400
    detector.was_late(1_399)
    assert detector.next_deadline_ms() == 1_400


def test_a_node_that_is_always_late_still_notices_the_dead() -> None:
    """ana wakes every 400 ms, late each time. ben's death takes longer to see than 3,000 ms, but not forever.

    At 400 the first heartbeat is given until 1,400, so at 1,600 it is missed. The second would be at 2,600, is given
    until 3,000, and is missed at 3,200. The third would be at 4,200, is given until 4,600, and is missed at 4,800.
    """
    detector = connected(BEN)
    seen = []
    for now_ms in range(400, 8_001, 400):
        detector.was_late(now_ms)
        seen += [(now_ms, verdict.after) for verdict in detector.tick(now_ms)]
    assert seen == [(1_600, DEGRADED), (4_800, FAILED)]


def test_a_link_found_broken_after_a_sleep_is_timed_anew() -> None:
    """While ana slept her link to eva broke, and ben's old complaint waits in the socket: neither is evidence now."""
    detector = connected(BEN, EVA)
    detector.link_down(EVA, 500)
    detector.heard(beat(BEN, 2, lost=(EVA,)), 510)
    detector.was_late(9_000)
    assert detector.tick(9_200) == []

    detector.heard(beat(BEN, 10, lost=(EVA,)), 9_300)
    assert detector.tick(9_300) == [change(EVA, HEALTHY, FAILED, "link lost")]

    # Once it is a verdict, another sleep does not reopen it: she is still out of reach when she is heard.
    detector.was_late(9_400)
    detector.heard(beat(EVA, 10), 9_500)
    assert detector.tick(9_500) == []


def test_mercy_is_shown_again_after_every_heartbeat() -> None:
    """ana sleeps, hears ben, and sleeps again: the second time he has a whole interval too."""
    detector = connected(BEN)
    detector.was_late(10_000)
    detector.heard(beat(BEN, 11), 10_001)
    detector.was_late(20_000)
    assert detector.next_deadline_ms() == 21_000


# --- names ------------------------------------------------------------------------------------------------------------


def test_health_has_the_words_people_know() -> None:
    """S0-16: and the numbers travel, so they stay."""
    assert [(health.word, int(health)) for health in Health] == [
        ("healthy", 0),
        ("degraded", 1),
        ("failed", 2),
        ("recovering", 3),
    ]


def test_members_come_in_order_of_id_with_our_own_among_them() -> None:
    detector = Detector(CONFIG, BEN, "c", [(EVA, "eva:1"), (ANA, "ana:1")], 0)
    assert [(state.node_id, state.address) for state in detector.members()] == [
        (ANA, "ana:1"),
        (BEN, ""),
        (EVA, "eva:1"),
    ]


# --- the pace ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("interval_ms", "beat_ms"), [(1_000, 900), (200, 180), (55, 49), (50, 45)])
def test_a_node_beats_a_tenth_sooner_than_it_is_missed(interval_ms: int, beat_ms: int) -> None:
    """S0-08: ben's beats take up to that tenth to come, the longest after the shortest; he is never degraded."""
    config = GossipConfig(heartbeat_interval_ms=interval_ms)
    assert config.beat_ms == beat_ms
    detector = watch(BEN, config=config)
    detector.heard(beat(BEN, 1), 0)
    for sequence in range(2, 12):
        delay_ms = 0 if sequence % 2 else interval_ms - beat_ms
        now_ms = (sequence - 1) * beat_ms + delay_ms
        assert detector.tick(now_ms - 1) == []
        assert detector.heard(beat(BEN, sequence), now_ms)
        assert detector.tick(now_ms) == []


# --- members that come later ------------------------------------------------------------------------------------------


def test_a_node_that_joins_later_is_watched_from_then_on() -> None:
    """eva joins at 5,000. Nothing she missed before counts; her silence from then on does, as anybody's would."""
    detector = watch(BEN)
    assert detector.heard(beat(BEN, 1), 4_900)
    assert not detector.heard(beat(EVA, 1), 4_950)
    detector.add(EVA, "eva:1", 5_000)
    assert (detector.health(EVA), detector.silence_ms(EVA, 5_300)) == (HEALTHY, 300)
    assert detector.heard(beat(EVA, 2), 5_400)
    assert detector.heard(beat(BEN, 2), 5_900)
    assert detector.next_deadline_ms() == 5_400 + 1_000
    assert detector.tick(6_400) == [change(EVA, HEALTHY, DEGRADED, "missed a heartbeat")]


def test_a_node_that_joins_and_never_speaks_fails() -> None:
    detector = watch()
    assert detector.next_deadline_ms() is None
    detector.add(EVA, "eva:1", 5_000)
    assert detector.next_deadline_ms() == 6_000
    assert detector.tick(8_000) == [change(EVA, HEALTHY, FAILED, "missed 3 heartbeats", incarnation=0)]


def test_those_who_come_later_stand_in_order_of_id_and_count_in_a_majority() -> None:
    """ana alone with eva cannot tell who is cut off; with ben among them, ben can bear witness."""
    detector = watch(EVA)
    detector.add(BEN, "ben:1", 0)
    assert [(state.node_id, state.address) for state in detector.members()] == [
        (ANA, "ana:1"),
        (BEN, "ben:1"),
        (EVA, "eva:1"),
    ]
    assert detector.heard(beat(BEN, 1), 10) and detector.heard(beat(EVA, 1), 10)
    detector.link_up(EVA, Incarnation(1), 20)
    detector.link_down(EVA, 100)
    assert detector.heard(beat(BEN, 2, lost=(EVA,)), 110)
    assert detector.tick(250) == [change(EVA, HEALTHY, FAILED, "link lost")]


def test_adding_a_member_again_changes_nothing_but_its_address() -> None:
    detector = watch(BEN)
    assert detector.heard(beat(BEN, 7), 200)
    detector.add(BEN, "elsewhere:1", 300)
    detector.add(ANA, "ana:2", 300)
    assert [state.address for state in detector.members()] == ["ana:2", "elsewhere:1"]
    assert not detector.heard(beat(BEN, 7), 400)
    assert detector.views() == (PeerView(BEN, Incarnation(1), HEALTHY, False),)


def test_who_is_gone_for_good_is_watched_no_longer() -> None:
    """eva was removed: her silence means nothing any more. Nobody stops watching himself."""
    detector = Detector(GossipConfig(), NodeId("ana"), "c", [(NodeId(name), "") for name in ("ana", "ben", "eva")], 0)
    detector.remove(NodeId("eva"), 100)
    detector.remove(NodeId("eva"), 100)
    detector.remove(NodeId("ana"), 100)
    assert [member.node_id for member in detector.members()] == ["ana", "ben"]
    assert [change.node_id for change in detector.tick(10_000)] == ["ben"]
