"""Attacks of the catalogue that tests elsewhere make, since they need a clock, a disk or a broker of their own: the suite runs them too."""

from typing import Final

TUF, LINK = "tests/node/trust/test_tuf_client.py", "tests/broker/test_link.py"
ACL, DAMAGED = "tests/broker/test_acl.py", "tests/node/agent/activation/test_damaged_files.py"
ENROLLED, HTTPS = "tests/hub/service/enrol/test_enrolled_nodes.py", "tests/hub/service/enrol/test_https_endpoint.py"
INFLUENCE, LIMITS = "tests/hub/core/drift/test_influence.py", "tests/node/serving/test_connection_limits.py"

ELSEWHERE: Final = {
    "clock, disk and folder of a node": (
        f"{TUF}::test_clock_of_1970_does_not_bring_expired_metadata_back",
        f"{TUF}::test_clock_of_1970_activates_nothing_and_keeps_the_view",
        f"{TUF}::test_clock_two_years_ahead_refuses_and_recovers_when_it_is_put_right",
        f"{TUF}::test_signature_from_the_far_future_does_not_push_a_working_clock",
        f"{TUF}::test_damaged_copy_is_healed_and_an_older_bundle_still_refused",
        f"{TUF}::test_disk_that_loses_both_copies_under_a_running_node_forgets_nothing",
        f"{TUF}::test_node_that_lost_both_copies_begins_again_at_the_pinned_root",
        f"{TUF}::test_full_disk_is_refused_and_changes_nothing",
        f"{TUF}::test_two_processes_on_one_folder_never_go_back",
        f"{TUF}::test_folder_of_another_fleets_node_is_not_believed",
        f"{TUF}::test_pinned_root_that_its_own_keys_do_not_sign_is_refused",
        f"{DAMAGED}::test_a_worker_that_ended_is_not_started_from_changed_files",
    ),
    "metadata that is withheld or run ahead": (
        f"{TUF}::test_withheld_rollout_is_refused",
        f"{TUF}::test_root_once_seen_is_not_forgotten_when_a_bundle_withholds_it",
        f"{TUF}::test_nothing_is_activated_from_what_has_expired",
        "tests/node/agent/test_trust_again.py::test_an_oldest_version_counts_for_what_is_announced_already",
        f"{TUF}::test_serial_run_ahead_with_a_stolen_rollouts_key_is_undone_by_a_new_key",
        f"{TUF}::test_team_cannot_publish_under_another_teams_name",
    ),
    "packets and connections": (
        f"{LINK}::test_a_giant_packet_ends_the_connection_before_it_takes_memory",
        f"{LINK}::test_malformed_bytes_end_the_connection_and_the_owner_hears_of_it",
        f"{LINK}::test_a_broker_whose_certificate_another_authority_signed_is_not_spoken_to",
        f"{LINK}::test_a_client_whose_certificate_another_authority_signed_is_not_let_in",
        f"{ACL}::test_nobody_connects_without_a_certificate",
        f"{ACL}::test_a_certificate_with_a_wildcard_or_a_slash_for_a_name_owns_nothing_of_others",
        f"{ACL}::test_a_consumer_writes_nothing",
        f"{LIMITS}::test_connections_to_the_grpc_port_are_bounded_too",
    ),
    "enrolment and revoked devices": (
        f"{ENROLLED}::test_where_enrolment_is_required_a_stranger_is_nobody",
        f"{ENROLLED}::test_a_revoked_node_is_ignored_at_once_and_after_a_restart",
        f"{HTTPS}::test_a_body_that_is_too_large_is_refused_before_it_is_read",
        f"{HTTPS}::test_a_request_that_drips_is_ended_and_others_are_served_meanwhile",
        f"{HTTPS}::test_a_token_that_keeps_failing_has_to_wait",
    ),
    "telemetry that would move a gate": (
        f"{INFLUENCE}::test_one_of_twenty_moves_its_cohort_by_at_most_twice_its_share",
        f"{INFLUENCE}::test_zeros_over_a_million_rows_hide_no_drift_of_19_others",
        f"{INFLUENCE}::test_counts_that_only_look_like_noise_in_each_bin_are_refused",
    ),
}
