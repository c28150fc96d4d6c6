//! The list of all cases.

/// Makes a test of every case, run over the store of a fresh `$fixture` each (an expression of a type that implements
/// [`Fixture`](crate::conformance::Fixture)). Needs `tokio` with macros in the calling crate. Put it into a module of
/// its own for each fixture.
#[macro_export]
macro_rules! conformance_suite {
    ($fixture:expr) => {
        $crate::conformance_suite! { @cases $fixture;
            insert {
                stores_what_was_given, seq_rises_in_order, an_id_is_taken_once, a_batch_sees_its_own_items, late_is_refused,
                a_key_is_taken_once, a_key_is_free_after_its_end, refusals_come_in_the_documented_order, each_alone, all_or_nothing,
                a_task_has_one_home,
            }
            claim {
                hands_out_bodies_in_order, a_stale_version_is_refused, only_the_owner_claims, no_task_twice_in_a_batch,
                keeps_result_and_attempts,
            }
            commit {
                changes_the_head, stale_answers_the_head, delete_removes_every_part, a_deleted_id_starts_anew, another_task_is_not_changed, results_are_set_and_removed,
                results_of_unfinished_tasks,
                attempts_are_appended, the_latest_attempts_are_kept, the_body_is_replaced, spawns_in_the_same_step, spawns_many, a_stale_change_spawns_nothing, all_or_nothing,
                items_apply_in_order, ordered_changes_guard_at_once, counts_move,
            }
            race { cancel_or_claim_never_both, one_winner_among_many }
            feed {
                one_entry_for_each_call, refused_calls_write_nothing, sources_are_named, a_write_wakes_a_reader, an_idle_reader_times_out,
                the_tail_is_where_news_begin, a_lost_place_is_behind, replay_rebuilds_everything, ordered_changes_arrive,
            }
            places {
                lanes_by_priority_then_age, a_lane_is_read_from_a_score, timers_earliest_first, equal_times_are_paged, running_by_session,
                done_by_time, members_of_a_tree, members_in_order, every_state_has_its_places, ordered_tasks_keep_their_place, lanes_are_known_again,
                listed_once_in_pages, lists_are_filtered, counts_equal_a_recount,
            }
            moves {
                from_every_state, with_effects, there_and_back, refused_moves, a_batched_lane, by_the_owner_too,
            }
            keys {
                found_until_their_end, kept_after_the_task, gone_with_the_record, apart_by_namespace, all_keys_of_a_task_or_none,
                a_conflict_shows_the_holder, stolen_at_a_version, freed_by_their_task, replaced_in_one_step,
                a_taken_key_refuses_the_commit, taken_with_a_change, freed_with_a_record_of_the_same_call, spawned_once, taken_alone, an_abandoned_entry_is_taken_over_once,
                a_key_binds_an_id,
            }
            barrier {
                the_last_arrival_wakes, only_new_members_count, a_refused_commit_does_not_arrive, all_in_one_batch,
                without_members_it_wakes_at_once, gone_with_the_wait, a_second_barrier_replaces_the_first, places_and_sizes,
                survives_a_restart_and_a_rush,
            }
            outbox {
                sent_with_the_change, a_refused_change_sends_nothing, kept_until_delivered, survives_a_restart, many_and_large,
            }
            own {
                taken_kept_and_refused, released_and_taken_over, taken_after_a_lapse, a_lapsed_session_is_listed_until_dropped,
                a_live_session_is_not_dropped, leaving_is_not_lapsing, every_take_has_a_new_token, partitions_have_their_own_owner,
                candidates_are_listed, let_go_and_taken_again, a_lapsed_candidate_is_none, ownership_is_shown, a_fenced_session_is_over,
            }
            docs {
                guards, versions_are_never_reused, each_applies_alone, pages_in_order, a_change_wakes, apart_by_namespace_and_kind,
                bytes_are_untouched,
            }
            flow {
                a_burst_then_the_rate, reserved_ahead, what_is_told_to_come_again_comes, all_that_is_needed_or_none,
                unused_starts_are_given_back, without_a_rule_all_is_granted, a_rule_may_change, counts_are_absolute, holders_expire,
                first_come_first_served, all_have_their_turn, what_is_left_goes_on, a_place_in_line_is_lost,
                without_a_slot_no_start, looks_change_nothing, the_latest_rule_of_a_task_is_remembered, the_largest_numbers, many_keys_in_one_call,
                nobody_gets_too_much,
            }
            talk {
                notes_wait_for_their_reader, a_note_wakes_its_reader, a_reader_that_left_takes_nothing, boards_are_seen, a_board_ends,
            }
            lanes { definitions_come_back, many_lanes_in_pages, order_goes_before_priority }
            limits {
                large_bodies_are_untouched, empty_batches, a_full_batch, a_longer_batch_is_refused, unknown_partitions_are_refused,
                namespaces_are_apart, partitions_are_apart, survives_a_restart, answers_a_ping,
            }
        }
    };
    (@cases $fixture:expr; $($group:ident { $($case:ident),+ $(,)? })+) => {
        $(mod $group {
            #[allow(unused_imports)]
            use super::*;

            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $case() {
                let fixture = $fixture;
                $crate::conformance::$group::$case(&fixture).await;
            })+
        })+
    };
}
