//! The reference page of the configuration, made from the table of its fields.

use std::fmt::Write;

use super::{FieldInfo, Kind, Label, Status, fields};

const HEAD: &str = "\
# Model configuration

Every field of `config.pbtxt`, which is Triton's `ModelConfig`. The same fields make up the JSON of a load call's
`config` parameter and of the configuration call. This page is made from the table that reads them
(`serving/core/src/config/model.rs`); a test fails when it is stale.

What becomes of a field:

* **honoured**: the server does what it says.
* **hint**: there is nothing to do, for the reason given.
* **ignored**: it is read and shown by the configuration call, but not acted upon; the log warns of it at load.

A field that is not listed here is an error.

| field | holds | what becomes of it | meaning |
|---|---|---|---|
";

/// The page, in Markdown.
pub fn reference() -> String {
    let mut page = HEAD.to_owned();
    rows(&mut page, "", fields());
    page
}

fn rows(page: &mut String, at: &str, fields: &[FieldInfo]) {
    for field in fields {
        let name = format!("{at}{}", field.name);
        let (holds, status) = (holds(field), status(field.status));
        // Writing to a string cannot fail.
        let _ = writeln!(page, "| `{name}` | {holds} | {status} | {} |", field.doc.trim());
        // What is below an ignored field is ignored with it.
        if let (Kind::Message { fields, .. }, None) = (field.kind(), field.status.ignored()) {
            let below = match field.label() {
                Label::One => format!("{name}."),
                Label::Many => format!("{name}[]."),
                Label::Map => format!("{name}{{}}."),
            };
            rows(page, &below, fields);
        }
    }
}

fn holds(field: &FieldInfo) -> String {
    let one = match field.kind() {
        Kind::Bool => "`true` or `false`".to_owned(),
        Kind::Integer => "integer".to_owned(),
        Kind::Number => "number".to_owned(),
        Kind::Text => "text".to_owned(),
        Kind::Word(names) => names.iter().map(|n| format!("`{n}`")).collect::<Vec<_>>().join(", "),
        Kind::Message { name, .. } => name.to_owned(),
    };
    let all = match field.label() {
        Label::One => one,
        Label::Many => format!("list of {one}"),
        Label::Map => format!("map to {one}"),
    };
    match field.choice {
        Some(choice) => format!("{all}; one of `{choice}`"),
        None => all,
    }
}

fn status(status: Status) -> String {
    match status {
        Status::Honoured => "honoured".to_owned(),
        Status::Hint(why) => format!("hint: {why}"),
        Status::Ignored(why) => format!("ignored: {why}"),
    }
}

#[cfg(test)]
mod tests {
    use std::{env, fs, path::Path};

    use super::reference;

    /// `MIZZEN_BLESS=1` writes the page anew.
    #[test]
    fn the_page_is_what_the_table_says() {
        let path =
            Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/reference/model-config.md");
        if env::var_os("MIZZEN_BLESS").is_some() {
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(&path, reference()).unwrap();
        }
        let there = fs::read_to_string(&path).unwrap_or_default();
        assert_eq!(there, reference(), "stale; run this test with MIZZEN_BLESS=1");
    }
}
