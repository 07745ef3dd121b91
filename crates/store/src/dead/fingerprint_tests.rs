use proptest::prelude::*;

use super::*;

#[test]
fn an_error_keeps_its_words_and_loses_what_differs_from_job_to_job() {
    for (error, masked) in [
        ("connection refused", "connection refused"),
        ("timeout after 30s", "timeout after <duration>"),
        ("took 950ms", "took <duration>"),
        ("took 1.2s, then 350µs", "took <duration>, then <duration>"),
        ("waited 1h2m3s of 2 hours", "waited <duration> of <duration>"),
        ("took 1.5 of 2.25 seconds", "took <n> of <duration>"),
        ("1 byte of 1.5 MiB, 12kB left", "<size> of <size>, <size> left"),
        ("order 123456789 is gone", "order <n> is gone"),
        ("factor 1.5e-7", "factor <n>"),
        ("user 0190163d-8694-739b-aea5-966c26f8ad91 unknown", "user <uuid> unknown"),
        ("at 0x7ffe42 in deadbeef01", "at <hex> in <hex>"),
        ("token 01ARZ3NDEKTSV4RRFFQ69G5FAV rejected", "token <id> rejected"),
        ("connect 10.0.0.1:5432: refused", "connect <address>: refused"),
        ("connect [fe80::1]:5432: refused", "connect <address>: refused"),
        ("connect [fe80::1%eth0]:5432: refused", "connect <address>: refused"),
        ("connect to 2001:db8::8a2e:370:7334: refused", "connect to <address>: refused"),
        ("connect to ::1 failed", "connect to <address> failed"),
        ("from fe80::1%eth0 to ::ffff:10.0.0.1.", "from <address> to <address>."),
        ("peer:2001:db8:0:0:0:0:0:1", "peer:<address>"),
        ("no card 00:1b:44:11:3a:b7", "no card <address>"),
        ("std::io::Error in f64::MAX at de::Error", "std::io::Error in f<n>::MAX at de::Error"),
        ("line 3:17:9 of a:b:c", "line <n>:<n>:<n> of a:b:c"),
        ("at 2026-11-21T15:00:00.123Z, 2026-11-21 15:00:00+01:00", "at <time>, <time>"),
        ("at 15:00:00", "at <n>:<n>:<n>"),
        ("mailbox anna.b@example.com is full", "mailbox <address> is full"),
        ("missing field `order_id`", "missing field `order_id`"),
        ("no customer 'C-17'", "no customer <id>"),
        ("cannot open \"/tmp/a/b.txt\"", "cannot open <id>"),
        ("cannot open /tmp/a/b.txt: no such file", "cannot open <path>: no such file"),
        ("no ./data/x.csv, ~/y or ../z (/etc/passwd)", "no <path>, <path> or <path> (<path>)"),
        ("cannot open C:\\data\\x.csv or \\\\host\\share", "cannot open <path> or <path>"),
        ("GET https://api.example.com/orders/abc?x=y#z: 404", "GET <url>: <n>"),
        ("see (http://[::1]:8080/a), amqp://u:p@h.", "see (<url>), <url>."),
        ("GET /orders/abc returned 500", "GET <path> returned <n>"),
        ("and/or text/html 10 / 2", "and/or text/html <n> / <n>"),
        ("acceptance of specification", "acceptance of specification"),
        ("order12and3456x failed", "order<n>and<n>x failed"),
        ("", ""),
    ] {
        assert_eq!(mask(error), masked);
    }
}

fn assert_masks(table: &[(&str, &str)]) {
    for (error, masked) in table {
        assert_eq!(mask(error), *masked, "{error}");
    }
}

#[test]
fn an_id_of_any_form_is_one_mask() {
    assert_masks(&[
        ("no charge ch_3MmlLrLkdIwHu7ix0snN0B7x", "no charge <id>"),
        ("no charge 'ch_3MmlLrLkdIwHu7ix0snN0B7x'", "no charge <id>"),
        ("customer cus_NffrFeUfNV2Hib, request req_8YVlKcVaFlCjuX", "customer <id>, request <id>"),
        ("user usr_k3x9p2qa of upload_7a4f9c2e", "user <id> of <id>"),
        ("no file_0190163d-8694-739b-aea5-966c26f8ad91.", "no <id>."),
        ("no file_00000000-0000-0000-0000-000000000001", "no <id>"),
        ("no 0190163d-8694-739b-aea5-966c26f8ad91_small", "no <id>"),
        ("no file-0190163d-8694-739b-aea5-966c26f8ad91", "no file-<uuid>"),
        ("session dBjftJeZ4CVP-mBF_92K27uhbUJU1p1r_wW1gFWFOEjXk ended", "session <id> ended"),
        ("token eyJhbGciOiJIUzI1NiJ9.eyJz_dWI-xIn0.dBjftJ_eZ4CVP-mB. Ask again", "token <id>. Ask again"),
        ("token eyJhbGciOiJkaXIifQ..c2Vj_cmV0.dGV4dA.dGFn: expired", "token <id>: expired"),
        ("booking XK7P2QMA, 7QJ4ZK2M and PNR_XKQ7PZMA", "booking <id>, <id> and <id>"),
        ("job_id=XK7P2QMA", "job_id=<id>"),
    ]);
}

#[test]
fn a_name_or_a_code_with_digits_is_no_id() {
    assert_masks(&[
        ("no user_id in HTTP2, utf8: ECONNREFUSED", "no user_id in HTTP<n>, utf<n>: ECONNREFUSED"),
        ("SQLSTATE 23505 and 42P01", "SQLSTATE <n> and <n>P<n>"),
        ("E0308 ORA-00942 PGRST116 NETSDK1045", "E<n> ORA-<n> PGRST<n> NETSDK<n>"),
        ("collation utf8mb4_unicode_ci", "collation utf<n>mb<n>_unicode_ci"),
        ("ERR_HTTP2_STREAM_CANCEL", "ERR_HTTP<n>_STREAM_CANCEL"),
        ("TLS_RSA_WITH_AES_128_GCM_SHA256", "TLS_RSA_WITH_AES_<n>_GCM_SHA<n>"),
        ("invalid_sequence_in_column_17 of secp256k1_key", "invalid_sequence_in_column_<n> of secp<n>k<n>_key"),
        ("order_17 in step_2_failed, INV20260017", "order_<n> in step_<n>_failed, INV<n>"),
        ("a_b-30s of pre-order_id-17 __init__", "a_b-<duration> of pre-order_id-<n> __init__"),
    ]);
}

#[test]
fn a_duration_a_time_or_a_number_is_one_mask_however_it_is_written() {
    assert_masks(&[
        ("took 1m 30s", "took <duration>"),
        ("took 45s", "took <duration>"),
        ("took 2h 5m 3s, not 1day 2h", "took <duration>, not <duration>"),
        ("took 1 minute 30 seconds of PT1M30S", "took <duration> of <duration>"),
        ("every P1DT2H or PT0.5S", "every <duration> or <duration>"),
        ("took 1,234ms", "took <duration>"),
        ("until Sat, 21 Nov 2026 15:00:00 GMT", "until <time>"),
        ("until Sat, 7 Nov 2026 15:00:00 +0100 (CET).", "until <time>."),
        ("until Saturday, 21-Nov-26 15:00:00 GMT", "until <time>"),
        ("until Sat Nov  7 15:00:00 2026", "until <time>"),
        ("notAfter=Nov 21 15:00:00 2026 GMT", "notAfter=<time>"),
        ("since 21 Nov 2026 of June 3, 2026 3:00 PM", "since <time> of <time>"),
        ("at 21/Nov/2026:15:00:00 +0100", "at <time>"),
        ("at 2026/11/21 15:00:00 GET /x", "at <time> GET <path>"),
        ("expired 21 Nov 2026 15:00 GET /x", "expired <time> GET <path>"),
        ("It may sit for 5 months, or march", "It may sit for <duration>, or march"),
        ("1,234,567 bytes left", "<size> left"),
        ("999 bytes left", "<size> left"),
        ("1_234_567 B, 1'234.5 kB and 1.234.567 bytes", "<size>, <size> and <size>"),
        ("1,234,567 rows, 12 rows, 1_000 rows", "<n> rows, <n> rows, <n> rows"),
        ("ids 1, 234 and 12345,678", "ids <n>, <n> and <n>,<n>"),
    ]);
}

#[test]
fn a_relative_path_is_masked_and_a_media_type_or_a_place_in_a_program_is_kept() {
    assert_masks(&[
        ("cannot open uploads/ada/photo.jpg", "cannot open <path>"),
        ("cannot open uploads/photo.tar.gz: denied", "cannot open <path>: denied"),
        ("copy a/b.txt. to ./c/d.txt", "copy <path>. to <path>"),
        ("key=0190163d-8694-739b-aea5-966c26f8ad91/photo.jpg", "key=<path>"),
        ("uploads/jürgen/2026/11/21/orders.csv:17: bad", "<path>:<n>: bad"),
        ("panicked at src/main.rs:17:5: no", "panicked at src/main.rs:<n>:<n>: no"),
        ("application/vnd.ms-excel or application/json", "application/vnd.ms-excel or application/json"),
        ("HTTP/1.1, Europe/Berlin, read/write/execute", "HTTP/<n>, Europe/Berlin, read/write/execute"),
        ("golang.org/x/net: net/http, I/O.", "golang.org/x/net: net/http, I/O."),
    ]);
}

proptest! {
    #[test]
    fn what_differs_from_job_to_job_splits_no_group(
        host in "[a-z]{1,9}(\\.[a-z0-9]{1,9}){0,3}",
        path in "(/[a-zA-Z0-9._~-]{0,8}[a-zA-Z0-9]){1,5}",
        six in any::<u128>(),
        four in any::<u32>(),
        port in any::<u16>(),
        nanos in 1..u64::MAX / 2,
        booking in "[G-OQ-Z][0-9][A-Z][0-9A-Z]{5,9}",
        charge in "[a-z]{2,4}_[0-9][A-Za-z][0-9A-Za-z]{14,22}",
        file in "[a-z]{1,9}(/[a-zA-Z0-9._-]{0,8}[a-zA-Z0-9]){0,3}/x[a-z0-9]{0,7}\\.[a-z]{3,4}",
    ) {
        let (six, four) = (Ipv6Addr::from(six), std::net::Ipv4Addr::from(four));
        let took = std::time::Duration::from_nanos(nanos);
        for (error, masked) in [
            (format!("GET https://{host}:{port}{path}: refused"), "GET <url>: refused"),
            (format!("cannot read {path}: denied"), "cannot read <path>: denied"),
            (format!("connect to {six}: refused"), "connect to <address>: refused"),
            (format!("connect to [{six}]:{port}: refused"), "connect to <address>: refused"),
            (format!("connect to {four}:{port}: refused"), "connect to <address>: refused"),
            (format!("gave up after {took:?} of work"), "gave up after <duration> of work"),
            (format!("booking {booking} is full"), "booking <id> is full"),
            (format!("no charge {charge} here"), "no charge <id> here"),
            (format!("cannot open {file}: denied"), "cannot open <path>: denied"),
        ] {
            prop_assert_eq!(mask(&error), masked, "{}", error);
        }
    }

    #[test]
    fn a_mask_is_made_of_any_text(error in any::<String>()) {
        mask(&error);
    }
}

#[test]
fn failures_are_alike_only_if_job_kind_and_masked_error_are() {
    let (first, _) = fingerprint("a", "handler", "no user 1");
    assert_eq!(fingerprint("a", "handler", "no user 2").0, first);
    for (job, kind, error) in [("b", "handler", "no user 1"), ("a", "timeout", "no user 1"), ("a", "handler", "no")] {
        assert_ne!(fingerprint(job, kind, error).0, first);
    }
    assert_ne!(fingerprint("ab", "c", "").0, fingerprint("a", "bc", "").0);
}

#[test]
fn an_error_of_any_length_and_script_has_a_short_mask() {
    assert_eq!(mask(&"ä".repeat(5000)).chars().count(), LONGEST);
    assert_eq!(mask(&"17 ä ".repeat(5000)).chars().count(), LONGEST);
    // No more is read than a worker writes.
    assert_eq!(mask(&format!("{}x", "1".repeat(ERROR_TEXT_LIMIT))), "<n>");
}

#[test]
fn ids_of_different_lengths_split_no_group_of_long_errors() {
    let error = |id: &str| format!("no charge {id}: {}", format!("{id} is not of this customer, ").repeat(60));
    let (one, other) = (error("ch_3MmlLrLkdIwHu7ix0snN0B7x"), error("ch_3MmlLrLkdIwHu7ix"));
    assert!(one.len() < ERROR_TEXT_LIMIT && other.len() > LONGEST);
    assert_eq!(mask(&one), mask(&other));
    assert_eq!(mask(&one).chars().count(), LONGEST);
}
