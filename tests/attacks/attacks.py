"""Every attack on the Vault that is tried: whose promise it tests, where, what the attacker has, what must happen.

`nbs/governance/02_threat_model.ipynb` lists the same attacks; `tests/house/test_attacks.py` compares the two, and
makes sure that every test exists and that no test marked as an attack is missing here.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Attack:
    """One attack."""

    name: str
    tier: str  # "embedded": a file, one account; "site": a server under somebody else's administration
    test: str  # file and function
    has: str  # what the attacker has
    must: str  # what must happen


A, S, D, F = "tests/attacks/test_attacks", "tests/security/test", "tests/data/test", "tests/faults/test"

ATTACKS: tuple[Attack, ...] = (
    Attack(
        "swapped objects", "embedded", f"{D}_raw_files.py::test_swapped_objects_do_not_open_and_are_named",
        "write access to the files of the raw zone, past the immutable flag",
        "neither of two exchanged objects opens, and verification names both",
    ),
    Attack(
        "swapped objects and their rows", "embedded", f"{A}_swapped.py::test_swapped_objects_do_not_open",
        "write access to the files of the raw zone and to the register",
        "neither opens: each is encrypted for its own name, whatever the register says",
    ),
    Attack(
        "an older version under a newer hash", "embedded",
        f"{A}_swapped.py::test_an_older_version_under_the_newer_ones_hash_does_not_open",
        "write access to the raw zone and an older version of the same name",
        "it does not open as the newer one",
    ),
    Attack(
        "an object overwritten in its bucket", "site",
        f"{D}_raw_s3.py::test_an_overwritten_or_hidden_name_keeps_what_was_kept",
        "the credentials of the bucket's administrator",
        "what was written over, or hidden by a mark of deletion, is still read under its own version",
    ),
    Attack(
        "retention shortened, an object deleted early", "site",
        f"{D}_raw_s3.py::test_nobody_deletes_or_shortens_before_the_date",
        "the credentials of the bucket's administrator",
        "the server refuses until the date has come",
    ),
    Attack(
        "a register that lies", "embedded", f"{A}_swapped.py::test_an_edited_register_opens_nothing_else",
        "write access to the register of objects",
        "no other bytes are ever handed out under a hash",
    ),
    Attack(
        "swapped keysets", "embedded", f"{S}_keyfolder_attacks.py::test_swapped_keysets_do_not_open",
        "write access to the folder of keys", "neither of two exchanged keysets opens, nor encrypts anything",
    ),
    Attack(
        "swapped keysets", "site", f"{S}_vault_attacks.py::test_swapped_keysets_do_not_open",
        "write access to the key-value store of Vault", "neither of two exchanged envelopes opens",
    ),
    Attack(
        "a keyset planted in the clear", "embedded",
        f"{S}_keyfolder_attacks.py::test_a_planted_unwrapped_keyset_is_not_believed",
        "write access to the folder of keys, and a key of his own", "it is refused, and nothing is encrypted under it",
    ),
    Attack(
        "a destroyed key put back", "embedded",
        f"{S}_keyfolder_attacks.py::test_a_destroyed_key_does_not_come_back_with_a_copy",
        "a backup of one keyset, and write access to the folder of keys", "what it encrypted stays closed",
    ),
    Attack(
        "a destroyed key put back with a killed rotation's leftovers", "embedded",
        f"{A}_swapped.py::test_a_destroyed_key_does_not_come_back_with_what_a_killed_rotation_left",
        "a backup of one keyset, and what a killed process left in the folder of keys",
        "what it encrypted stays closed",
    ),
    Attack(
        "a destroyed key put back", "site",
        f"{S}_vault_attacks.py::test_a_destroyed_key_does_not_come_back_with_its_envelope",
        "a backup of an envelope, and write access to the key-value store", "what it encrypted stays closed",
    ),
    Attack(
        "names that are paths or lie", "embedded", f"{A}_names.py::test_wicked_names_are_refused_at_every_door",
        "a vendor's manifest, or any other source of names: separators, NUL, control and bidirectional characters",
        "every door refuses them before anything is written, and no message repeats them raw",
    ),
    Attack(
        "a link in the raw zone", "embedded",
        f"{D}_raw_files.py::test_a_folder_that_became_a_link_takes_no_object",
        "write access to the folders of the raw zone", "nothing is written or acknowledged through it",
    ),
    Attack(
        "a link under an object's name", "embedded", f"{A}_links.py::test_a_read_does_not_follow_a_link",
        "write access to the folders of the raw zone", "it is not read, and verification names it and goes on",
    ),
    Attack(
        "a folder exchanged for a link while something is put", "embedded",
        f"{A}_links.py::test_what_is_acknowledged_in_a_race_lies_in_its_place",
        "a process that exchanges the folder of objects for a link, thousands of times a second",
        "whatever was acknowledged lies in its place",
    ),
    Attack(
        "a second name for an object", "embedded",
        f"{A}_links.py::test_an_object_changed_through_a_second_name_is_seen",
        "a hard link to an object, made by root", "bytes changed through it are refused and named",
    ),
    Attack(
        "a link in the archive", "embedded", f"{A}_links.py::test_the_archive_does_not_follow_a_link",
        "write access to the folders of the archive", "nothing is written, acknowledged or read through it",
    ),
    Attack(
        "a link among the keys", "embedded", f"{A}_links.py::test_a_new_key_is_not_written_through_a_link",
        "write access to the folder of keys", "no key is written where the link leads",
    ),
    Attack(
        "a link in place of a key", "embedded",
        f"{A}_links.py::test_a_rewritten_key_replaces_a_link_and_not_its_target",
        "write access to the folder of keys", "rotation replaces the link and never writes through it",
    ),
    Attack(
        "a trap for whoever tidies up", "embedded",
        f"{A}_links.py::test_a_sweep_touches_nothing_but_leftovers",
        "write access to a folder that is swept: links, second names, pipes under temporary names",
        "the sweep ends, and touches nothing but leftovers",
    ),
    Attack(
        "links that come and go under a sweep", "embedded",
        f"{A}_links.py::test_a_sweep_survives_links_that_come_and_go",
        "a process that exchanges files and links in a swept folder", "the sweep ends, and follows none of them",
    ),
    Attack(
        "a second writer of the same name", "embedded",
        f"{D}_raw_files.py::test_of_eight_writers_of_a_new_name_one_wins_and_seven_are_told",
        "processes that put other bytes under one name at once", "one is acknowledged, the others are told who was first",
    ),
    Attack(
        "a second writer of a secret", "embedded",
        f"{A}_people.py::test_threads_that_write_one_secret_do_not_lose_any",
        "writers that replace one secret at once", "one replaces it, the others are told",
    ),
    Attack(
        "a second writer of a secret", "site", f"{S}_vault_attacks.py::test_the_second_writer_is_told",
        "writers that replace one secret at once", "check-and-set lets one through, the other is told",
    ),
    Attack(
        "the ledger edited by its owner", "embedded", f"{S}_security_ledger.py::test_what_was_touched_is_named",
        "the database file: changes, removals, exchanges, a cut tail",
        "verification names the first wrong entry, up to the last checkpoint",
    ),
    Attack(
        "the ledger edited by its owner", "site", f"{S}_ledger_postgresql.py::test_an_owner_who_edits_is_seen",
        "the administrator of PostgreSQL, who can switch triggers off", "verification names the first wrong entry",
    ),
    Attack(
        "the writer's password stolen", "site", f"{S}_ledger_postgresql.py::test_the_writer_may_only_read_and_add",
        "the credentials that the platform writes its ledger with", "lines can be read and added, and nothing else",
    ),
    Attack(
        "guards of the ledger removed", "site", f"{S}_ledger_postgresql.py::test_a_guard_that_is_gone_is_named",
        "the administrator of PostgreSQL", "verification names the guard that is gone or was replaced",
    ),
    Attack(
        "a history rewritten and signed again", "site",
        f"{S}_ledger_checkpoints.py::test_an_owner_with_the_key_is_caught_by_the_witness_alone",
        "the whole ledger and its signing key", "the witnessed checkpoint shows it: cut off, put back or rewritten",
    ),
    Attack(
        "a ledger begun again", "site",
        f"{S}_ledger_checkpoints.py::test_a_ledger_begun_again_under_the_same_key_is_refused",
        "the whole ledger and its signing key", "the witness refuses it",
    ),
    Attack(
        "a witness shown two histories", "site",
        f"{S}_witness_service.py::test_two_histories_cannot_both_be_cosigned",
        "the ledger's signing key, and two ledgers", "the witness signs one, and keeps the other as evidence",
    ),
    Attack(
        "Vault sealed between wrap and write", "site", f"{S}_vault_attacks.py::test_sealed_between_wrap_and_write",
        "an operator who seals at the worst instant", "no key is half there, and the next attempt makes it",
    ),
    Attack(
        "token revoked", "site",
        f"{S}_vault_attacks.py::test_a_revoked_token_is_replaced_and_a_revoked_login_is_refused",
        "an operator who revokes a token, or the login itself",
        "a new token is fetched with the login; without it everything is refused in plain words",
    ),
    Attack(
        "disk full in put, append and checkpoint", "embedded",
        f"{A}_disk_full.py::test_a_full_disk_loses_nothing_that_was_acknowledged",
        "a file system with room for nothing, a little, or almost enough",
        "each act is done or refused in plain words, nothing acknowledged is lost, and all can be done once there is room",
    ),
    Attack(
        "PostgreSQL restarted in the middle of appends", "site",
        f"{S}_ledger_postgresql.py::test_eight_processes_append_to_one_chain_through_a_restart",
        "somebody who stops the server at once, again and again, under eight writers",
        "every acknowledged line is there once, and the chain holds",
    ),
    Attack(
        "an answer lost around a commit", "site", f"{S}_ledger_postgresql.py::test_a_lost_answer_is_acknowledged_once",
        "somebody who cuts the connection before or after a commit", "the line is there once and acknowledged once",
    ),
    Attack(
        "S3 answering 500 and closing half-way", "site",
        f"{D}_raw_s3.py::test_a_write_survives_a_server_that_fails_in_the_middle",
        "a network that answers with errors, hangs up, or loses the answer",
        "the object is there whole and once",
    ),
    Attack(
        "a download cut half-way", "site", f"{D}_raw_s3.py::test_a_read_that_is_cut_goes_on_where_it_was",
        "a network that hangs up in the middle of a body", "reading goes on where it was, and the whole has its hash",
    ),
    Attack(
        "another user of the machine", "embedded",
        f"{A}_people.py::test_another_user_gets_nothing_and_is_told_so_in_plain_words",
        "an account of his own on the same machine",
        "no key, secret or plaintext is read, nothing is written, and every refusal is in plain words",
    ),
    Attack(
        "files made under a careless umask", "embedded",
        f"{A}_people.py::test_secrets_lie_in_closed_folders_whatever_the_umask",
        "an account of his own, and a victim with umask 000", "keys and secrets lie in closed files and folders",
    ),
    Attack(
        "a key that others may read", "embedded", f"{A}_people.py::test_a_key_that_others_may_read_is_refused",
        "an owner who loosened the mode of a key", "it is refused with the command that closes it",
    ),
    Attack(
        "a secret in a notebook's output", "embedded",
        f"{A}_leaks.py::test_a_secret_shown_in_a_notebook_is_not_archived",
        "a notebook that shows a credential of the workspace, as text or escaped in JSON",
        "the archive refuses it, and does not repeat it",
    ),
    Attack(
        "another question for policy", "embedded",
        f"{D}_raw_doubts.py::test_the_caller_does_not_choose_which_question_policy_is_asked",
        "a role that may do something else with every table", "no object is opened under the name of that something",
    ),
    Attack(
        "a forged tree that others shall sign", "embedded",
        f"{S}_ledger_planted.py::test_an_unsigned_note_and_planted_nodes_get_nothing_signed",
        "leave to add rows to the ledger's tables, and no key", "neither the ledger nor the witness signs it",
    ),
    Attack(
        "a forged tree that others shall sign", "site",
        f"{S}_ledger_postgresql.py::test_nothing_is_planted_ahead_and_no_unsigned_note_is_believed",
        "the password of the ledger's writer", "the server refuses the rows, and what is unsigned is not believed",
    ),
    Attack(
        "one row that stops the ledger", "site",
        f"{S}_ledger_postgresql.py::test_no_insert_stops_the_ledger_on_a_server",
        "the password of the ledger's writer", "the server refuses the row, or appending goes on beside it",
    ),
    Attack(
        "a line that no index finds", "embedded",
        f"{S}_ledger_planted.py::test_a_row_that_no_index_finds_is_a_damaged_row",
        "leave to add rows to the ledger's file", "it is a damaged row wherever it is read",
    ),
    Attack(
        "killed at every durable instant", "embedded", f"{F}_killing_vault.py::test_killed_in_the_embedded_tier",
        "kill -9 before and after each durable step of put, append, checkpoint, secret, hold, rotation, destruction",
        "nothing acknowledged is lost, nothing is half there, the chain holds, and a rerun finishes",
    ),
    Attack(
        "killed at every durable instant", "site", f"{F}_killing_vault.py::test_killed_at_a_site",
        "the same, with PostgreSQL, a bucket with Object Lock and Vault",
        "nothing acknowledged is lost, nothing is half there, the chain holds, and a rerun finishes",
    ),
    Attack(
        "a vendor who sends other bytes", "embedded",
        "tests/data/test_order_buying.py::test_files_that_are_not_what_was_promised_are_not_kept",
        "the vendor's server: wrong hashes, short and long bodies", "nothing of it reaches the raw zone, and nothing is owned",
    ),
    Attack(
        "a faultless file for another question", "embedded",
        "tests/data/test_order_buying.py::test_a_faultless_file_for_another_question_is_not_owned",
        "the vendor's server: another dataset, schema, symbol or span, with the right hash", "it is not owned, and the order says why",
    ),
    Attack(
        "a job dearer than its estimate", "embedded",
        "tests/data/test_order_buying.py::test_a_job_dearer_than_its_estimate_is_loud_and_one_bad_order_is_nobody_elses",
        "the vendor's till", "it is told, it is on the ledger, and it counts against the month",
    ),
    Attack(
        "a list of files on another host", "embedded",
        "tests/data/test_order_buying.py::test_another_host_is_never_asked",
        "the vendor's answers", "no other host is ever connected to",
    ),
    Attack(
        "a host that says it is the vendor", "embedded",
        "tests/data/test_order_buying.py::test_a_certificate_of_another_authority_is_final",
        "the network between us and the vendor", "nothing is sent, the key least of all",
    ),
    Attack(
        "an environment that leads elsewhere", "embedded",
        "tests/data/test_order_buying.py::test_environment_and_netrc_have_no_say",
        "proxy variables and a .netrc in the researcher's home", "neither is heeded",
    ),
    Attack(
        "the vendor's key in a message", "embedded",
        "tests/data/test_order_buying.py::test_the_key_shows_nowhere",
        "every error, log and representation there is", "the key is in none of them",
    ),
    Attack(
        "an answer without an end", "embedded",
        "tests/data/test_order_buying.py::test_an_answer_that_only_drips_has_an_end",
        "the vendor's server: a byte now and then, for ever", "the answer is given up after a time that is stated",
    ),
    Attack(
        "damaged files by the thousand", "embedded",
        "tests/data/test_dbn_fuzz.py::test_two_thousand_damaged_files_are_refused_or_reported",
        "write access to a delivery", "none crashes or hangs the reader, and no loss is silent where a hash or a checksum can tell",
    ),
    Attack(
        "a file of the lake exchanged before a merge", "embedded",
        "tests/data/test_lake_upkeep.py::test_a_damaged_file_is_not_merged_into_a_sound_one",
        "write access to the files of the lake", "it is named, and its rows go nowhere",
    ),
    Attack(
        "a list of a pin edited", "embedded",
        "tests/data/test_lake_pins.py::test_a_list_that_was_touched_is_noticed",
        "write access to the register", "the list is refused by its hash",
    ),
)  # fmt: skip


if __name__ == "__main__":  # the rows of the page
    print("| attack | tier | the attacker has | what must happen | test |\n|---|---|---|---|---|")
    for attack in ATTACKS:
        print(f"| {attack.name} | {attack.tier} | {attack.has} | {attack.must} | `{attack.test}` |")
