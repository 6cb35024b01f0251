"""Which test tries what OWASP's Application Security Verification Standard 5.0.0 asks of accounts, secrets and sockets.

`python -m tests.asvs` prints it as the page docs/asvs.md. What it asks of other parts is not in here.
"""

# ruff: noqa: E501 (a row is a line)
from __future__ import annotations

WEB, ACCOUNTS = "attack/test_web.py", "attack/test_accounts.py"
SIGNIN, LOCK, AUDIT = "accounts/test_signin.py", "accounts/test_lock.py", "accounts/test_audit.py"
INVITATIONS, PROFILE = "accounts/test_invitations.py", "accounts/test_profile.py"
DOOR, STORM = "attack/test_door.py", "attack/test_storm.py"
SECRETS, CANARIES, DOORS = "portal/test_secrets.py", "attack/test_canaries.py", "test_doors.py"
TERMINALS, USAGE = "clusters/test_terminals.py", "usage/test_pages.py"

# Its number, what is asked, and the tests.
ROWS = (
    ("1.2.1", "what people type stays text on pages", (WEB, "test_names_stay_text")),
    ("1.2.4", "no form can be made to speak to the database", (ACCOUNTS, "test_hostile_words_are_refused_in_words")),
    ("1.2.10", "a file of the audit is no formula", (AUDIT, "test_the_csv_is_the_view_and_no_formula")),
    ("1.2.10", "a file of what was used is none either", (USAGE, "test_names_are_text_on_the_page_and_in_the_file")),
    ("1.3.11", "no heads are put into mails", (ACCOUNTS, "test_a_name_puts_nothing_into_the_head_of_a_mail")),
    ("2.2.1", "each field takes what it is for", (ACCOUNTS, "test_hostile_words_are_refused_in_words")),
    ("2.4.1", "asking too often is refused", (SIGNIN, "test_asking_too_often_is_said_in_our_look")),
    ("2.4.1", "and holds nobody else up", (STORM, "test_who_is_signed_in_is_served_while_very_many_sign_in")),
    ("3.3.1 to 3.3.4", "cookies are for this host, over TLS, not for scripts", (WEB, "test_cookies_under_tls")),
    ("3.4.1", "browsers are told to use TLS", (WEB, "test_cookies_under_tls")),
    ("3.4.3 to 3.4.6", "policies go with every answer", (WEB, "test_every_answer_carries_the_headers")),
    ("3.5.1", "forms of other sites are refused", (WEB, "test_a_form_of_another_site_is_refused")),
    ("3.5.3", "looking changes nothing", (DOORS, "test_looking_changes_nothing")),
    ("3.7.2", "signing in leads nowhere else", (WEB, "test_signing_in_leads_nowhere_else")),
    ("4.1.3", "what a proxy has not said is not believed", (WEB, "test_a_forwarded_host_is_not_believed")),
    ("4.1.3", "an address is the one that the proxy saw", (SIGNIN, "test_the_address_is_the_one_that_the_trusted_proxy_saw")),
    ("4.1.3", "another port is another program", (DOOR, "test_another_port_is_another_program")),
    ("4.1.3", "links in mails are of the portal's URL", (DOOR, "test_links_in_mails_are_built_from_the_portals_url_alone")),
    ("4.4.2", "sockets that none of our pages opens", (DOOR, "test_a_socket_that_no_page_of_ours_opens_is_closed_before_it_is_one")),
    ("4.4.2", "sockets of other sites are refused", (DOORS, "test_a_socket_from_elsewhere_is_refused")),
    ("4.4.3", "sockets belong to sessions and end with them", (DOORS, "test_who_hears_of_what")),
    ("4.4.3", "a terminal too, while it is open", (TERMINALS, "test_it_ends_in_words_when_what_it_stands_on_goes")),
    ("6.1.1, 6.3.1", "guessing is slowed, and keeps no owner out", (SIGNIN, "test_a_stranger_who_tries_does_not_keep_the_owner_out")),
    ("6.2.1 to 6.2.7, 6.2.10 to 6.2.12", "length counts; common passwords are refused", (SIGNIN, "test_the_rules_of_passwords")),
    ("6.2.8, 6.2.9", "a long password counts to its end, as it was typed", (ACCOUNTS, "test_a_long_password_counts_to_its_end")),
    ("6.3.2", "no account that everybody knows", (ACCOUNTS, "test_there_is_no_account_that_everybody_knows")),
    ("6.3.3", "authenticator apps, and keys", (SIGNIN, "test_an_authenticator_app_is_set_up_used_and_kept_secret")),
    ("6.3.4", "each way in asks the same", (LOCK, "test_single_sign_on_is_a_way_in_as_any_other")),
    ("6.3.7", "a change of address is confirmed, and told", (PROFILE, "test_a_new_address_counts_once_it_is_confirmed")),
    ("6.3.8", "known and unknown addresses: the same words", (SIGNIN, "test_known_and_unknown_addresses_get_the_same_answers")),
    ("6.3.8", "and the same time", (ACCOUNTS, "test_known_and_unknown_addresses_take_the_same_time")),
    ("6.4.1", "an invitation works once, and not for ever", (INVITATIONS, "test_what_ends_an_invitation")),
    ("6.4.3", "a new password does not go round the second factor", (ACCOUNTS, "test_a_new_password_does_not_go_round_the_second_factor")),
    ("6.5.1", "a code lets in once", (ACCOUNTS, "test_a_code_lets_in_once")),
    ("6.5.1", "not half a minute later either", (ACCOUNTS, "test_a_code_does_not_let_in_again_when_its_half_minute_is_over")),
    ("6.5.1", "nor the one that set the app up", (ACCOUNTS, "test_the_code_that_set_the_app_up_does_not_let_in")),
    ("6.3.1", "guessing codes is limited", (SIGNIN, "test_guessing_codes_is_limited")),
    ("6.8.1", "only what the provider clearly vouches for", (SIGNIN, "test_only_a_clear_yes_of_the_provider_counts")),
    ("beyond", "what is kept of a session lets nobody in", (WEB, "test_what_the_database_keeps_of_a_session_signs_nobody_in")),
    ("7.2.3", "what lets in cannot be guessed", (ACCOUNTS, "test_what_lets_in_cannot_be_guessed")),
    ("7.2.4", "a new session with each sign-in", (WEB, "test_the_session_is_another_one_after_signing_in")),
    ("7.3.1, 7.3.2", "sessions end, used or not", (SIGNIN, "test_a_session_ends_when_it_is_not_used_and_after_a_week_in_any_case")),
    ("7.4.1", "signing out ends it on the server", (WEB, "test_signing_out_ends_the_session_on_the_server")),
    ("7.4.2", "so does switching somebody off", (WEB, "test_who_is_switched_off_is_out_at_the_next_click")),
    ("7.4.3", "a new password ends the other sessions", (SIGNIN, "test_a_new_password_ends_the_other_sessions_and_is_audited")),
    ("7.4.5, 7.5.2", "sessions are listed and can be ended", (SIGNIN, "test_sessions_are_listed_and_can_be_ended")),
    ("7.5.1", "who it is is asked again before what matters", (SIGNIN, "test_changes_of_second_factors_ask_who_it_is")),
    ("7.5.1", "and before somebody is made an admin", (INVITATIONS, "test_making_an_admin_of_the_organization_asks_again_who_it_is")),
    ("7.5.1", "and before a change of address", (PROFILE, "test_a_change_of_address_asks_again_after_a_while")),
    ("8.1.1, 8.2.1, 8.2.2", "everybody at every address", (DOORS, "test_who_gets_in")),
    ("8.2.3", "fields that a form does not have", (ACCOUNTS, "test_fields_that_a_form_does_not_have_change_nothing")),
    ("8.3.2", "rights are asked anew each time, on open pages too", ("tasks/test_consumers.py", "test_someone_who_is_removed_hears_no_more")),
    ("8.4.1", "other organizations are as if they were not", (DOORS, "test_what_belongs_to_others_is_as_if_it_were_not")),
    ("10.2.1", "an answer that nobody asked for", ("accounts/test_single_sign_on.py", "test_an_answer_that_nobody_asked_for_signs_nobody_in")),
    ("10.2.1", "another person's code", ("accounts/test_single_sign_on.py", "test_another_persons_code_is_worth_nothing")),
    ("12.3.1", "an issuer that anybody could be", ("portal/test_checks.py", "test_an_issuer_that_anybody_on_the_way_could_be")),
    ("10.5.4", "what is said to another client", ("accounts/test_single_sign_on.py", "test_what_the_provider_says_to_another_client_is_not_believed")),
    ("11.3.2, 11.3.3", "a secret opens where it belongs", (SECRETS, "test_moved_to_another_row_it_does_not_open")),
    ("11.3.3", "a changed bit is noticed", (SECRETS, "test_a_changed_bit_is_noticed")),
    ("11.4.2", "passwords are hashed dearly", (ACCOUNTS, "test_passwords_are_hashed_dearly")),
    ("11.5.1", "tokens of 128 random bits at least", (ACCOUNTS, "test_what_lets_in_cannot_be_guessed")),
    ("13.2.2", "the database's role cannot change the audit", (AUDIT, "test_a_role_of_the_database_can_add_entries_and_not_change_them")),
    ("13.3.1", "secrets are where they belong", (CANARIES, "test_the_database")),
    ("13.3.2", "and nowhere else", (CANARIES, "test_files_that_others_may_read")),
    ("13.3.4", "keys can be changed", (SECRETS, "test_after_a_rotation_the_old_key_is_useless_and_the_new_one_opens_everything")),
    ("13.4.1, 13.4.3, 13.4.5", "nothing of the house is handed out", (ACCOUNTS, "test_nothing_of_the_house_is_handed_out")),
    ("13.4.2", "no debugging pages", (WEB, "test_nothing_runs_with_debug_on_unless_asked")),
    ("13.4.4", "TRACE", (ACCOUNTS, "test_trace_hands_nothing_back")),
    ("14.2.1", "no token of an address reaches the log", (INVITATIONS, "test_what_is_logged_of_a_failure_has_no_token_in_it")),
    ("14.3.2", "pages of people are kept in no cache", ("pages/test_pages.py", "test_pages_of_people_are_kept_in_no_cache")),
    ("15.3.3", "fields that a form does not have", (ACCOUNTS, "test_fields_that_a_form_does_not_have_change_nothing")),
    ("15.3.4", "whose address it is", (SIGNIN, "test_the_address_is_the_one_that_the_trusted_proxy_saw")),
    ("15.3.7", "a field that is sent twice", (ACCOUNTS, "test_the_same_field_twice_is_not_two_answers")),
    ("15.4.2", "two at once do not both get what is there once", ("accounts/test_at_once.py", "test_a_link_that_is_used_twice_at_once_works_once")),
    ("16.2.1, 16.2.2", "who, what, when, from where", (AUDIT, "test_the_page_says_who_did_what_from_where")),
    ("16.2.5", "no secret in the log", (CANARIES, "test_logs")),
    ("16.3.1", "signing in and failing to is written down", (SIGNIN, "test_who_signs_in_and_who_fails_is_written_down")),
    ("16.3.2, 16.3.3", "so is each thing that people do", (AUDIT, "test_every_action_is_written_down_once")),
    ("16.4.1", "nobody writes lines of the log", (WEB, "test_what_somebody_types_does_not_begin_a_line_of_the_log")),
    ("16.4.2", "what was changed in it is found", (AUDIT, "test_a_changed_entry_is_found")),
    ("16.5.1", "what cannot be read is refused in words", (DOOR, "test_a_form_in_another_alphabet_is_refused_in_words")),
    ("16.5.1, 16.5.3", "without its database nobody is let in, and nothing told", (WEB, "test_without_the_database_nobody_is_let_in_and_nothing_is_told")),
    ("16.5.3", "nor without the server that counts the tries", (WEB, "test_without_the_queues_server_nobody_is_let_in")),
)  # fmt: skip


def as_page() -> str:
    lines = [
        "# What the standard asks, and which test tries it",
        "",
        "Generated from tests/asvs.py by `python -m tests.asvs`. The numbers are of OWASP ASVS 5.0.0; it covers accounts,",
        "sessions, secrets, the audit and live sockets. A test that is named here and does not exist fails the build.",
        "",
        "| number | asked | test |",
        "|---|---|---|",
        *(f"| {number} | {asked} | `tests/{file}::{test}` |" for number, asked, (file, test) in ROWS),
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    print(as_page(), end="")
