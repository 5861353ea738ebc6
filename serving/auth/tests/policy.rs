//! Policies as their files have them, and what follows.

#![allow(clippy::unwrap_used, reason = "a helper that fails fails its test")]

use jiff::Timestamp;
use mizzen_serving_auth::{Credentials, Denied, Policy, Scope, TokenHash};
use mizzen_serving_core::Category;
use mizzen_types::{Coded, ErrorCode};
use proptest::prelude::*;

const NOW: Timestamp = Timestamp::UNIX_EPOCH;

fn hash(token: &str) -> String {
    TokenHash::of(token.as_bytes()).to_string()
}

fn policy() -> Policy {
    let (ci, old) = (hash("ci-token"), hash("old-token"));
    Policy::from_toml(&format!(
        r#"
        [[tokens]]
        name = "ci"
        sha256 = "{ci}"
        expires = "1970-01-01T00:00:01Z"
        allow = [
            {{ categories = ["inference", "metadata"], models = ["resnet", "bert-*"] }},
            {{ categories = ["statistics"] }},
        ]
        [[tokens]]
        name = "old"
        sha256 = "{old}"
        expires = "1970-01-01T00:00:00Z"
        allow = [{{ categories = ["*"] }}]
        [[clients]]
        name = "gateway"
        certificate = "CN=gateway,O=example"
        allow = [{{ categories = ["*"] }}]
        [anyone]
        allow = [{{ categories = ["health"] }}]
        "#
    ))
    .unwrap()
}

fn header(value: &str) -> Credentials<'_> {
    Credentials { authorization: Some(value.as_bytes()), certificate: &[] }
}

#[test]
fn a_token_may_what_its_rules_say() {
    let ci = policy().identify(header("Bearer ci-token"), NOW).unwrap();
    use Category::*;
    #[rustfmt::skip]
    let cases = [
        // what the case shows           kind             on                         may
        ("its model",                    Inference,       Scope::Model("resnet"),    true),
        ("a name that its pattern fits", Inference,       Scope::Model("bert-base"), true),
        ("another model",                Inference,       Scope::Model("resnet2"),   false),
        ("no model",                     Inference,       Scope::Model(""),          false),
        ("a call without a model",       Metadata,        Scope::Server,             true),
        ("every model",                  Metadata,        Scope::All,                false),
        ("a rule for every model",       Statistics,      Scope::All,                true),
        ("another kind",                 ModelRepository, Scope::Model("resnet"),    false),
        ("what anyone may",              Health,          Scope::Model("x"),         true),
    ];
    for (shows, category, scope, may) in cases {
        let verdict = ci.may(category, scope);
        assert_eq!(verdict.is_ok(), may, "{shows}: {verdict:?}");
        if let Err(denied) = verdict {
            assert_eq!(denied.code(), ErrorCode::PermissionDenied, "{shows}");
        }
    }
}

#[test]
fn who_is_not_known_is_told_so() {
    let policy = policy();
    #[rustfmt::skip]
    let cases = [
        // what the case shows       header                      denied as
        ("a wrong token",            "Bearer ci-tokem",          "Token"),
        ("a part of the token",      "Bearer ci-toke",           "Token"),
        ("a hash is no token",       &format!("Bearer {}", hash("ci-token")), "Token"),
        ("the time is over",         "Bearer old-token",         "Expired"),
        ("another scheme",           "Basic Y2k6Y2ktdG9rZW4=",   "Form"),
        ("no token",                 "Bearer ",                  "Form"),
        ("two tokens",               "Bearer a,Bearer ci-token", "Form"),
        ("nothing",                  "",                         "Form"),
    ];
    for (shows, value, want) in cases {
        let denied = policy.identify(header(value), NOW).unwrap_err();
        assert!(format!("{denied:?}").starts_with(want), "{shows}: {denied:?}");
        assert_eq!(denied.code(), ErrorCode::Unauthenticated, "{shows}");
    }
    assert!(policy.identify(header("bearer ci-token"), NOW).is_ok(), "the scheme has no case");
    let later = Timestamp::from_second(1).unwrap();
    assert!(policy.identify(header("Bearer ci-token"), later).is_err(), "it expires");
}

#[test]
fn a_certificate_is_someone_and_nothing_is_anyone() {
    let policy = policy();
    let with = |names: &[&str]| {
        let names: Vec<_> = names.iter().map(|name| (*name).to_owned()).collect();
        policy.identify(Credentials { authorization: None, certificate: &names }, NOW).unwrap()
    };
    assert_eq!(with(&["CN=gateway,O=example"]).name(), "gateway");
    for stranger in [&["CN=gateway"][..], &["CN=gateway\\,O=example"], &["CN=x"], &[]] {
        let caller = with(stranger);
        assert!(caller.may(Category::Health, Scope::Server).is_ok());
        assert_eq!(caller.may(Category::Inference, Scope::Model("m")), Err(Denied::Unknown));
    }
}

#[test]
fn a_policy_is_the_same_in_yaml() {
    let yaml = format!(
        "tokens:\n- name: ci\n  sha256: {}\n  allow:\n  - categories: [inference]\n",
        hash("t")
    );
    let caller = Policy::from_yaml(&yaml).unwrap().identify(header("Bearer t"), NOW).unwrap();
    assert!(caller.may(Category::Inference, Scope::Model("any")).is_ok());
    assert!(caller.may(Category::Metadata, Scope::Server).is_err());
}

#[test]
fn what_cannot_be_used_names_the_entry() {
    let entry =
        |more: &str| format!("[[tokens]]\nname = \"a\"\nsha256 = \"{}\"\n{more}\n", hash("t"));
    let allow = "allow = [{ categories = [\"health\"] }]";
    let cases = [
        ("not TOML", "tokens = [".to_owned(), "line 1"),
        ("a field that is not known", entry("alow = []"), "alow"),
        ("no rules", entry(""), "allow"),
        ("an empty rule", entry("allow = [{ categories = [] }]"), "token `a`"),
        (
            "a kind that is not known",
            entry("allow = [{ categories = [\"infer\"] }]"),
            "`infer` is no kind",
        ),
        (
            "a star in the middle",
            entry("allow = [{ categories = [\"*\"], models = [\"a*b\"] }]"),
            "`a*b`",
        ),
        (
            "a time without its zone",
            entry(&format!("expires = \"2027-01-01\"\n{allow}")),
            "`expires`",
        ),
        (
            "a token for its hash",
            format!("[[tokens]]\nname = \"a\"\nsha256 = \"mizzen_00\"\n{allow}"),
            "64 hexadecimal",
        ),
        (
            "the same token twice",
            entry(allow) + &entry(allow).replace("\"a\"", "\"b\""),
            "same `sha256`",
        ),
        (
            "the same name twice",
            entry(allow) + &entry(allow).replace(&hash("t"), &hash("u")),
            "same `name`",
        ),
    ];
    for (shows, text, want) in cases {
        let error = Policy::from_toml(&text).unwrap_err().to_string();
        assert!(error.contains(want), "{shows}: {error}");
    }
}

proptest! {
    /// Whatever is in the header, only the token itself is the token.
    #[test]
    fn no_other_header_is_let_in(value in proptest::collection::vec(any::<u8>(), 0..80)) {
        let shown = Credentials { authorization: Some(&value), certificate: &[] };
        let right = value.get(..7).is_some_and(|s| s.eq_ignore_ascii_case(b"bearer "))
            && value.get(7..) == Some(b"ci-token");
        prop_assert_eq!(policy().identify(shown, NOW).is_ok(), right);
    }
}
