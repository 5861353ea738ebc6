use proptest::prelude::*;

use super::*;

/// The text and the calls of an answer that comes in pieces of so many characters.
fn parse(format: ToolFormat, answer: &str, each: usize) -> (String, Vec<(String, String)>) {
    let mut parser = ToolParser::new(format);
    let chars: Vec<char> = answer.chars().collect();
    let mut pieces: Vec<Piece> = chars
        .chunks(each)
        .flat_map(|chunk| parser.push(&chunk.iter().collect::<String>()))
        .collect();
    pieces.extend(parser.finish());
    let (mut text, mut calls) = (String::new(), Vec::<(String, String)>::new());
    for piece in pieces {
        match piece {
            Piece::Text(more) => text += &more,
            Piece::Call { index, name } => {
                assert_eq!(index, calls.len());
                calls.push((name, String::new()));
            }
            Piece::Arguments { index, text } => calls[index].1 += &text,
        }
    }
    assert_eq!(parser.calls(), calls.len());
    (text, calls)
}

#[test]
fn calls_are_found_however_the_answer_is_cut() {
    use ToolFormat::{Hermes, List, Llama, Mistral};
    let f = r#"{"a": "}\"]", "b": [1, {}]}"#;
    type Case<'a> = (&'a str, ToolFormat, String, &'a str, &'a [(&'a str, &'a str)]);
    #[rustfmt::skip]
    let cases: &[Case<'_>] = &[
        ("text alone",        Hermes,  "a <b> { \"name\": 1 }".into(), "a <b> { \"name\": 1 }", &[]),
        ("one call",          Hermes,  format!("<tool_call>\n{{\"name\": \"f\", \"arguments\": {f}}}\n</tool_call>"), "", &[("f", f)]),
        ("text before",       Hermes,  "Let me see.\n\n<tool_call>{\"name\":\"f\",\"arguments\":{}}</tool_call>".into(), "Let me see.", &[("f", "{}")]),
        ("two calls",         Hermes,  "<tool_call>\n{\"name\": \"f\", \"arguments\": {}}\n</tool_call>\n<tool_call>\n{\"name\": \"g\", \"arguments\": {\"x\": 1}}\n</tool_call>".into(), "", &[("f", "{}"), ("g", "{\"x\": 1}")]),
        ("text after",        Hermes,  "<tool_call>{\"name\": \"f\", \"arguments\": {}}</tool_call> done".into(), " done", &[("f", "{}")]),
        ("arguments first",   Hermes,  format!("<tool_call>{{\"arguments\": {f}, \"name\": \"f\"}}</tool_call>"), "", &[("f", f)]),
        ("no arguments",      Hermes,  "<tool_call>{\"name\": \"f\"}</tool_call>".into(), "", &[("f", "{}")]),
        ("arguments as text", Hermes,  "<tool_call>{\"name\": \"f\", \"arguments\": \"{\\\"x\\\": 1}\"}</tool_call>".into(), "", &[("f", "{\"x\": 1}")]),
        ("other keys",        Hermes,  "<tool_call>{\"id\": 3, \"name\": \"f\", \"arguments\": {}, \"z\": [\"}\"]}</tool_call>".into(), "", &[("f", "{}")]),
        ("no call after all", Hermes,  "<tool_call>hello</tool_call>".into(), "<tool_call>hello</tool_call>", &[]),
        ("cut short",         Hermes,  "<tool_call>{\"name\": \"f\", \"arguments\": {\"x\": ".into(), "", &[("f", "{\"x\": ")]),
        ("cut before a name", Hermes,  "<tool_call>{\"na".into(), "<tool_call>{\"na", &[]),
        ("half a mark",       Hermes,  "a <tool_".into(), "a <tool_", &[]),
        ("one call",          Llama,   "{\"name\": \"f\", \"parameters\": {\"x\": 1}}".into(), "", &[("f", "{\"x\": 1}")]),
        ("after its mark",    Llama,   "<|python_tag|>{\"name\": \"f\", \"parameters\": {}}".into(), "", &[("f", "{}")]),
        ("two calls",         Llama,   "{\"name\": \"f\", \"parameters\": {}}; {\"name\": \"g\", \"parameters\": {}}".into(), "", &[("f", "{}"), ("g", "{}")]),
        ("JSON that is none", Llama,   " {\"x\": 1} ok".into(), " {\"x\": 1} ok", &[]),
        ("text alone",        Llama,   "hi {\"name\": \"f\", \"parameters\": {}}".into(), "hi {\"name\": \"f\", \"parameters\": {}}", &[]),
        ("a list",            Mistral, format!("[TOOL_CALLS] [{{\"name\": \"f\", \"arguments\": {f}}}, {{\"name\": \"g\", \"arguments\": {{}}}}]"), "", &[("f", f), ("g", "{}")]),
        ("by name",           Mistral, format!("[TOOL_CALLS]f{f}[TOOL_CALLS]g_h[ARGS]{{}}"), "", &[("f", f), ("g_h", "{}")]),
        ("text alone",        Mistral, "[1, 2] {}".into(), "[1, 2] {}", &[]),
        ("what is required",  List,    format!("[{{\"name\": \"f\", \"arguments\": {f}}},{{\"name\":\"g\",\"arguments\":{{}}}}]"), "", &[("f", f), ("g", "{}")]),
    ];
    for (shows, format, answer, text, calls) in cases {
        let calls: Vec<_> = calls.iter().map(|(n, a)| ((*n).to_owned(), (*a).to_owned())).collect();
        for each in [1, 2, 3, 7, 1000] {
            assert_eq!(
                parse(*format, answer, each),
                ((*text).to_owned(), calls.clone()),
                "{shows} by {each}"
            );
        }
    }
}

#[test]
fn arguments_go_on_as_they_come() {
    let mut parser = ToolParser::new(ToolFormat::Hermes);
    assert_eq!(
        parser.push("<tool_call>{\"name\": \"f\""),
        [Piece::Call { index: 0, name: "f".into() }]
    );
    let more = parser.push(", \"arguments\": {\"x\": \"lo");
    assert_eq!(more, [Piece::Arguments { index: 0, text: "{\"x\": \"lo".into() }]);
    assert_eq!(parser.push("ng\"}"), [Piece::Arguments { index: 0, text: "ng\"}".into() }]);
}

#[test]
fn formats_are_known_by_their_templates() {
    let of = ToolFormat::of;
    assert_eq!(of("…return <tool_call>{…}</tool_call> with tools"), Some(ToolFormat::Hermes));
    assert_eq!(of("{{ '[TOOL_CALLS]' }} tools"), Some(ToolFormat::Mistral));
    assert_eq!(of("tools … {\"name\": function name, \"parameters\": …}"), Some(ToolFormat::Llama));
    assert_eq!(of("{{ messages }}"), None);
}

#[test]
fn tools_are_read_and_what_is_wrong_is_named() {
    let good =
        json!({"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}});
    assert_eq!(tools(&[good]).unwrap()[0].name, "f");
    #[rustfmt::skip]
    let cases = [
        (json!({}),                                                     "tools[0].type"),
        (json!({"type": "web_search"}),                                 "tools[0].type"),
        (json!({"type": "function"}),                                   "tools[0].function.name"),
        (json!({"type": "function", "function": {"name": "a b"}}),      "tools[0].function.name"),
        (json!({"type": "function", "function": {"name": "a", "parameters": 1}}), "tools[0].function.parameters"),
    ];
    for (given, field) in cases {
        assert_eq!(tools(&[given]).unwrap_err().at(), Some(field));
    }
    assert_eq!(tools(&[]).unwrap_err().at(), Some("tools"));
}

#[test]
fn what_is_required_is_a_form_that_a_model_can_be_held_to() {
    let side = crate::testing::side();
    let city = json!({"type": "object", "properties": {"at": {"$ref": "#/$defs/city"}}, "required": ["at"],
                      "$defs": {"city": {"enum": ["Bern", "Oslo"]}}, "additionalProperties": false});
    let tools = [
        Tool { name: "weather".into(), parameters: city },
        Tool { name: "time".into(), parameters: json!({"type": "object"}) },
    ];
    let accepts = |several: bool, answer: &str| {
        let mut constraint = side.constraint("tools", &required(&tools, several)).unwrap();
        let tokens = side.encode(crate::Prompt::Rendered(answer)).unwrap();
        tokens.iter().all(|token| constraint.accept(*token).is_ok())
            && constraint.may_end().unwrap()
    };
    let weather = r#"{"name": "weather", "arguments": {"at": "Oslo"}}"#;
    let time = r#"{"name": "time", "arguments": {"zone": 1}}"#;
    assert!(accepts(false, &format!("[{weather}]")));
    assert!(accepts(true, &format!("[{weather}, {time}]")));
    assert!(!accepts(false, &format!("[{weather}, {time}]")));
    assert!(!accepts(true, "[]"));
    assert!(!accepts(true, &format!("[{}]", weather.replace("Oslo", "Rome"))));
}

proptest! {
    #[test]
    fn nothing_a_model_writes_makes_it_fail(
        answer in r#"(<tool_call>|</tool_call>|\[TOOL_CALLS\]|<\|python_tag\|>|\{"name": "f"|, "arguments": \{|[\{\}\[\]",:a-c\\ ;]){0,30}"#,
        each in 1usize..9,
    ) {
        for format in [ToolFormat::Hermes, ToolFormat::Llama, ToolFormat::Mistral, ToolFormat::List] {
            prop_assert_eq!(parse(format, &answer, each), parse(format, &answer, 1));
        }
    }
}
