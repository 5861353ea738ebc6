use serde_json::json;

use super::*;

fn chat<'a>(messages: &'a [Json], special: &'a SpecialTokens) -> Chat<'a> {
    Chat {
        messages,
        tools: None,
        documents: None,
        add_generation_prompt: true,
        continue_final_message: false,
        arguments: None,
        special,
        now: jiff::civil::date(2026, 11, 22).at(13, 5, 9, 0),
    }
}

fn special() -> SpecialTokens {
    Map::from_iter([
        ("bos_token".to_owned(), json!("<s>")),
        ("eos_token".to_owned(), json!("</s>")),
    ])
}

fn messages() -> Vec<Json> {
    vec![
        json!({"role": "system", "content": "Be brief."}),
        json!({"role": "user", "content": " Hi & <hi> "}),
    ]
}

fn render(template: &str) -> Result<String, GenerateError> {
    ChatTemplate::new(template)?.render(&chat(&messages(), &special()))
}

/// In the style of the models that mark turns by `<|im_start|>`.
const MARKED: &str = "{% for message in messages %}
    {{- '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n' -}}
{% endfor %}
{% if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' -}}
{% endif %}";

#[test]
fn templates_say_what_transformers_makes_them_say() {
    #[rustfmt::skip]
    let cases = [
        ("turns",            MARKED, "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\n Hi & <hi> <|im_end|>\n<|im_start|>assistant\n"),
        ("special tokens",   "{{ bos_token }}{{ messages[1].content | trim }}{{ eos_token }}", "<s>Hi & <hi></s>"),
        ("unknown words",    "[{{ pad_token }}]{{ nothing is defined }}", "[]False"),
        ("blocks trimmed",   "a\n  {% if true %}\nb\n  {% endif %}\nc\n", "a\nb\nc"),
        ("no tools is none", "{{ tools is defined }} {{ tools is none }} {{ documents }}", "True True None"),
        ("slices",           "{% for m in messages[1:] %}{{ m.role }}{% endfor %}{% for m in messages[::-1] %}{{ m.role[0] }}{% endfor %}", "userus"),
        ("namespaces",       "{% set ns = namespace(n=0) %}{% for m in messages %}{% set ns.n = ns.n + 1 %}{% endfor %}{{ ns.n }}", "2"),
        ("loop controls",    "{% for m in messages %}{% if m.role == 'user' %}{% break %}{% endif %}{{ m.role }}{% endfor %}", "system"),
        ("python's methods", "{{ messages[1].content.strip().split(' ')[-1].upper() }} {{ 'a-b'.replace('-', '+') }} {{ messages[0].items() | list | length }}", "<HI> a+b 2"),
        ("tojson",           "{{ {'b': [1, 2.5, true, none], 'a': 'é<\"'} | tojson }}", "{\"b\": [1, 2.5, true, null], \"a\": \"é<\\\"\"}"),
        ("tojson, indented", "{{ {'b': [1], 'a': []} | tojson(indent=2) }}", "{\n  \"b\": [\n    1\n  ],\n  \"a\": []\n}"),
        ("tojson, sorted",   "{{ {'b': 1, 'a': 'é'} | tojson(sort_keys=true, ensure_ascii=true, separators=[',', ':']) }}", "{\"a\":\"\\u00e9\",\"b\":1}"),
        ("the time",         "{{ strftime_now('%d %b %Y %H:%M') }}", "22 Nov 2026 13:05"),
        ("generation marks", "a {%- generation %} {{ messages[0].role }}{% endgeneration -%} b", "a systemb"),
        ("macros",           "{% macro turn(m) %}[{{ m.role }}{{ strftime_now('%y') }}]{% endmacro %}{% for m in messages %}{{ turn(m) }}{% endfor %}", "[system26][user26]"),
        ("filters",          "{{ messages | selectattr('role', 'equalto', 'user') | map(attribute='content') | join(',') }}", " Hi & <hi> "),
        ("tests",            "{{ messages is iterable }}{{ messages[0] is mapping }}{{ messages[0].content is string }}", "TrueTrueTrue"),
    ];
    for (shows, template, want) in cases {
        assert_eq!(render(template).as_deref(), Ok(want), "{shows}");
    }
}

#[test]
fn what_a_template_raises_is_said_in_its_words() {
    let template =
        "{% if messages[0].role != 'user' %}{{ raise_exception('begin with user') }}{% endif %}";
    assert_eq!(render(template), Err(GenerateError::Refused("begin with user".to_owned())));
    let nested = format!("{{% macro m() %}}{template}{{% endmacro %}}{{{{ m() }}}}");
    assert_eq!(render(&nested), Err(GenerateError::Refused("begin with user".to_owned())));
}

#[test]
fn templates_that_do_too_much_are_stopped() {
    let loops = "{% for a in range(9999) %}{% for b in range(9999) %}x{% endfor %}{% endfor %}";
    let grows = "{% set ns = namespace(x='aaaaaaaa') %}{% for a in range(99) %}{% set ns.x = ns.x + ns.x %}{% endfor %}";
    let repeats = "{{ 'a' * 999999999999 }}";
    let endless = "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}";
    for template in [loops, grows, repeats, endless] {
        assert!(matches!(render(template), Err(GenerateError::Template(_))), "{template}");
    }
    let long = "a".repeat(TEMPLATE_BYTES_MAX + 1);
    for template in ["{% if %}", "{% include 'a' %}{% endif %}", &*long, &*"(".repeat(9999)] {
        let got = render(template);
        if template.starts_with('(') {
            assert!(got.is_ok(), "text");
        } else {
            assert!(matches!(got, Err(GenerateError::Template(_))), "{got:?}");
        }
    }
    let deep = format!("{{{{ {}1{} }}}}", "(".repeat(9999), ")".repeat(9999));
    assert!(matches!(render(&deep), Err(GenerateError::Template(_))));
    for template in ["{% include '/etc/passwd' %}", "{% extends 'default' %}"] {
        assert!(matches!(render(template), Err(GenerateError::Template(_))), "{template}");
    }
}

#[test]
fn a_template_for_tools_stands_beside_the_default() {
    let config = json!([{"name": "default", "template": "plain"},
                        {"name": "tool_use", "template": "{{ tools[0].function.name }}"}]);
    let template = ChatTemplate::of_config(&config).unwrap();
    let (messages, special) = (messages(), special());
    let tools = [json!({"type": "function", "function": {"name": "f"}})];
    assert_eq!(template.render(&chat(&messages, &special)).unwrap(), "plain");
    let with = Chat { tools: Some(&tools), ..chat(&messages, &special) };
    assert_eq!(template.render(&with).unwrap(), "f");
    let none = json!([{"name": "a", "template": ""}, {"name": "b", "template": ""}]);
    for wrong in [none, json!(3), json!([{"name": "default"}])] {
        assert!(ChatTemplate::of_config(&wrong).is_err());
    }
}

#[test]
fn the_last_message_can_be_gone_on_with() {
    let template = ChatTemplate::new(MARKED).unwrap();
    let special = special();
    for (last, want) in [("The answer is", "The answer is"), ("It is: ", "It is: ")] {
        let mut messages = messages();
        messages.push(json!({"role": "assistant", "content": last}));
        let chat = Chat {
            add_generation_prompt: false,
            continue_final_message: true,
            ..chat(&messages, &special)
        };
        let got = template.render(&chat).unwrap();
        assert!(got.ends_with(&format!("<|im_start|>assistant\n{want}")), "{got}");
    }
    let messages = [json!({"role": "assistant", "content": null})];
    let chat = Chat { continue_final_message: true, ..chat(&messages, &special) };
    let plain = ChatTemplate::new("x").unwrap();
    assert_eq!(plain.render(&chat).unwrap_err().at(), Some("continue_final_message"));
}

#[test]
fn arguments_of_the_request_are_seen() {
    let arguments = Map::from_iter([("enable_thinking".to_owned(), json!(false))]);
    let template = ChatTemplate::new("{{ 'no' if enable_thinking is false else 'yes' }}").unwrap();
    let (messages, special) = (messages(), special());
    assert_eq!(template.render(&chat(&messages, &special)).unwrap(), "yes");
    let with = Chat { arguments: Some(&arguments), ..chat(&messages, &special) };
    assert_eq!(template.render(&with).unwrap(), "no");
}
