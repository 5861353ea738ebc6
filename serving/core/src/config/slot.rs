//! What a field of a configuration may be, and how it is read and written.
//!
//! A [`Value`] is one value of one Rust type; a [`Slot`] is a field: one value, one that may be
//! absent, a list, or a map. Reading, writing, defaults and the reference page all follow from a
//! field's type, so that no field has code of its own.

use std::{collections::BTreeMap, time::Duration};

use mizzen_types::DataType;
use serde_json::{Map, Value as Json};

use super::{
    ConfigError, FieldInfo, Kind, Label, Warning,
    text::{Field, Message as Raw, Value as RawValue},
};

pub(super) type Read<T> = Result<T, ConfigError>;

/// Which of the two forms the fields come from; they differ in how enums, maps and names are
/// written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    Text,
    Json,
}

/// What reading knows beside the field at hand.
#[derive(Debug)]
pub(super) struct Reader {
    pub(super) form: Form,
    pub(super) warnings: Vec<Warning>,
}

/// Where a value stands.
#[derive(Debug, Clone, Copy)]
pub(super) struct Place<'a> {
    pub(super) file: &'a str,
    /// The full name, from the outermost message.
    pub(super) at: &'a str,
    pub(super) line: Option<u32>,
}

impl Place<'_> {
    pub(super) fn wrong(&self, expected: &str, got: impl Into<String>) -> ConfigError {
        ConfigError {
            file: self.file.to_owned(),
            line: self.line,
            field: self.at.to_owned(),
            expected: expected.to_owned(),
            got: got.into(),
        }
    }

    /// An error of a field below this place.
    pub(super) fn wrong_below(
        &self,
        field: &str,
        want: &str,
        got: impl Into<String>,
    ) -> ConfigError {
        let at = join(self.at, field);
        Place { at: &at, ..*self }.wrong(want, got)
    }
}

pub(super) fn join(at: &str, field: &str) -> String {
    if at.is_empty() { field.to_owned() } else { format!("{at}.{field}") }
}

/// One value of one type.
pub(super) trait Value: Sized + PartialEq {
    /// Whether an unset one is left out when written, as messages are.
    const OMITTED: bool = false;

    fn kind() -> Kind;

    fn read(reader: &mut Reader, place: Place<'_>, raw: &RawValue) -> Read<Self>;

    fn write(&self) -> Json;

    /// What is written where there is none.
    fn unset() -> Json;

    /// Whether this is how none is written, where that is no value of the type.
    fn is_unset(_raw: &RawValue) -> bool {
        false
    }

    /// Whether it says no more than an unset one.
    fn says_nothing(&self) -> bool {
        self.write() == Self::unset()
    }
}

/// One field.
pub(super) trait Slot {
    /// How often the field may stand.
    fn label() -> Label
    where
        Self: Sized;

    /// What each of its values is.
    fn kind() -> Kind
    where
        Self: Sized;

    /// Takes one value of the field; lists and maps are added to.
    fn read(&mut self, reader: &mut Reader, place: Place<'_>, raw: &RawValue) -> Read<()>;

    /// Its JSON; `None` where it is left out.
    fn write(&self) -> Option<Json>;

    /// Whether it is given at all, for a choice of one.
    fn is_given(&self) -> bool;

    /// Whether it says no more than its default.
    fn says_nothing(&self) -> bool;

    /// How many values it has, for the place of the next.
    fn len(&self) -> usize {
        0
    }
}

impl<T: Value + Default> Slot for T {
    fn label() -> Label {
        Label::One
    }

    fn kind() -> Kind {
        <T as Value>::kind()
    }

    fn read(&mut self, reader: &mut Reader, place: Place<'_>, raw: &RawValue) -> Read<()> {
        *self = <T as Value>::read(reader, place, raw)?;
        Ok(())
    }

    fn write(&self) -> Option<Json> {
        Some(Value::write(self))
    }

    fn is_given(&self) -> bool {
        true
    }

    fn says_nothing(&self) -> bool {
        Value::says_nothing(self)
    }
}

impl<T: Value> Slot for Option<T> {
    fn label() -> Label {
        Label::One
    }

    fn kind() -> Kind {
        T::kind()
    }

    fn read(&mut self, reader: &mut Reader, place: Place<'_>, raw: &RawValue) -> Read<()> {
        *self = if T::is_unset(raw) { None } else { Some(T::read(reader, place, raw)?) };
        Ok(())
    }

    fn write(&self) -> Option<Json> {
        match self {
            Some(value) => Some(value.write()),
            None => (!T::OMITTED).then(T::unset),
        }
    }

    fn is_given(&self) -> bool {
        self.is_some()
    }

    fn says_nothing(&self) -> bool {
        self.as_ref().is_none_or(T::says_nothing)
    }
}

impl<T: Value> Slot for Vec<T> {
    fn label() -> Label {
        Label::Many
    }

    fn kind() -> Kind {
        T::kind()
    }

    fn read(&mut self, reader: &mut Reader, place: Place<'_>, raw: &RawValue) -> Read<()> {
        self.push(T::read(reader, place, raw)?);
        Ok(())
    }

    fn write(&self) -> Option<Json> {
        Some(self.iter().map(T::write).collect())
    }

    fn is_given(&self) -> bool {
        !self.is_empty()
    }

    fn says_nothing(&self) -> bool {
        self.is_empty()
    }

    fn len(&self) -> usize {
        self.len()
    }
}

/// A map's key: text, or a number that JSON quotes.
pub(super) trait Key: Value + Ord + Default {
    fn of_name(name: &str) -> Option<Self>;
    fn name(&self) -> String;
}

impl Key for String {
    fn of_name(name: &str) -> Option<Self> {
        Some(name.to_owned())
    }

    fn name(&self) -> String {
        self.clone()
    }
}

impl Key for u64 {
    fn of_name(name: &str) -> Option<Self> {
        name.parse().ok()
    }

    fn name(&self) -> String {
        self.to_string()
    }
}

impl<K: Key, V: Value + Default> Slot for BTreeMap<K, V> {
    fn label() -> Label {
        Label::Map
    }

    fn kind() -> Kind {
        V::kind()
    }

    /// `{ key: "k" value { … } }` in text, `{"k": {…}}` in JSON.
    fn read(&mut self, reader: &mut Reader, place: Place<'_>, raw: &RawValue) -> Read<()> {
        let message = message(place, raw)?;
        match reader.form {
            Form::Json => self.read_object(reader, place, message),
            Form::Text => self.read_entry(reader, place, message),
        }
    }

    fn write(&self) -> Option<Json> {
        let entries = self.iter().map(|(key, value)| (key.name(), value.write()));
        Some(Json::Object(entries.collect()))
    }

    fn is_given(&self) -> bool {
        !self.is_empty()
    }

    fn says_nothing(&self) -> bool {
        self.is_empty()
    }

    fn len(&self) -> usize {
        self.len()
    }
}

trait ReadMap {
    fn read_object(&mut self, reader: &mut Reader, place: Place<'_>, raw: &Raw) -> Read<()>;
    fn read_entry(&mut self, reader: &mut Reader, place: Place<'_>, raw: &Raw) -> Read<()>;
}

impl<K: Key, V: Value + Default> ReadMap for BTreeMap<K, V> {
    fn read_object(&mut self, reader: &mut Reader, place: Place<'_>, raw: &Raw) -> Read<()> {
        // The place's own index counts entries of the text form; an object has names.
        let outer = place.at.rsplit_once('[').map_or(place.at, |(outer, _)| outer);
        for entry in &raw.fields {
            let at = join(outer, &entry.name);
            let place = Place { at: &at, ..place };
            let key = K::of_name(&entry.name)
                .ok_or_else(|| place.wrong("a number as the key", format!("`{}`", entry.name)))?;
            self.insert(key, V::read(reader, place, single(place, &entry.value)?)?);
        }
        Ok(())
    }

    fn read_entry(&mut self, reader: &mut Reader, place: Place<'_>, raw: &Raw) -> Read<()> {
        let (mut key, mut value) = (None, None);
        for field in &raw.fields {
            let at = join(place.at, &field.name);
            let place = Place { at: &at, line: field.line, ..place };
            let again = match field.name.as_str() {
                "key" => {
                    let raw = single(place, &field.value)?;
                    key.replace(K::read(reader, place, raw)?).is_some()
                }
                "value" => {
                    let raw = single(place, &field.value)?;
                    value.replace(V::read(reader, place, raw)?).is_some()
                }
                other => return Err(place.wrong("`key` or `value`", format!("`{other}`"))),
            };
            if again {
                return Err(place.wrong("one value", "a second"));
            }
        }
        self.insert(key.unwrap_or_default(), value.unwrap_or_default());
        Ok(())
    }
}

/// The value of a field that stands once.
pub(super) fn single<'r>(place: Place<'_>, raw: &'r RawValue) -> Read<&'r RawValue> {
    match raw {
        RawValue::List(_) => Err(place.wrong("one value", "a list")),
        other => Ok(other),
    }
}

pub(super) fn message<'r>(place: Place<'_>, raw: &'r RawValue) -> Read<&'r Raw> {
    match raw {
        RawValue::Message(message) => Ok(message),
        _ => Err(place.wrong("a message in braces", raw.show())),
    }
}

/// A message whose fields are listed in a table.
pub(super) trait Message: Default + PartialEq {
    /// The protocol's name.
    const NAME: &'static str;
    /// Its fields, in the protocol's order.
    const FIELDS: &'static [FieldInfo];

    /// Its fields, in the table's order.
    fn slots(&self) -> Vec<&dyn Slot>;

    /// Likewise, to be filled in.
    fn slots_mut(&mut self) -> Vec<&mut dyn Slot>;

    /// What holds between its fields.
    fn check(&self, _place: Place<'_>) -> Read<()> {
        Ok(())
    }
}

/// Reads a message's fields; those known and not honoured become warnings, unknown ones errors.
pub(super) fn read_message<M: Message>(
    reader: &mut Reader,
    place: Place<'_>,
    raw: &Raw,
) -> Read<M> {
    let mut message = M::default();
    let mut slots = message.slots_mut();
    let mut lines: Vec<Option<Option<u32>>> = vec![None; slots.len()];
    let mut chosen: BTreeMap<&str, &str> = BTreeMap::new();
    for field in &raw.fields {
        let (at, info) = find::<M>(reader, place, field)?;
        let full = join(place.at, info.name);
        let here = Place { at: &full, line: field.line, ..place };
        let again = lines[at].replace(field.line).is_some();
        if again && info.label() == Label::One {
            return Err(here.wrong("one value", "a second"));
        }
        if let Some(other) = info.choice.and_then(|c| chosen.insert(c, info.name)) {
            let want = format!("one of the choice `{}`", info.choice.unwrap_or_default());
            return Err(here.wrong(&want, format!("`{other}` as well")));
        }
        let warned = reader.warnings.len();
        read_field(reader, here, info, slots[at].as_mut_slot(), &field.value)?;
        if info.status.ignored().is_some() {
            // One warning for the whole of it is enough.
            reader.warnings.truncate(warned);
        }
    }
    for ((info, slot), line) in M::FIELDS.iter().zip(&slots).zip(lines) {
        if let (Some(line), false, Some(_)) = (line, slot.says_nothing(), info.status.ignored()) {
            let field = join(place.at, info.name);
            reader.warnings.push(Warning { line, field, why: info.status.ignored().unwrap_or("") });
        }
    }
    drop(slots);
    message.check(place)?;
    Ok(message)
}

/// One occurrence of a field, which may be a list of values.
fn read_field(
    reader: &mut Reader,
    place: Place<'_>,
    info: &FieldInfo,
    slot: &mut dyn Slot,
    value: &RawValue,
) -> Read<()> {
    let mut one = |line, value| {
        let indexed = match info.label() {
            Label::One => place.at.to_owned(),
            Label::Many | Label::Map => format!("{}[{}]", place.at, slot.len()),
        };
        slot.read(reader, Place { at: &indexed, line, ..place }, value)
    };
    match (value, info.label()) {
        (RawValue::List(_), Label::One) => Err(place.wrong("one value", "a list")),
        (RawValue::List(values), _) => {
            values.iter().try_for_each(|(line, value)| one(*line, value))
        }
        (value, _) => one(place.line, value),
    }
}

fn find<M: Message>(
    reader: &Reader,
    place: Place<'_>,
    field: &Field,
) -> Read<(usize, &'static FieldInfo)> {
    let named = |name: &str| M::FIELDS.iter().position(|info| info.name == name);
    let at = named(&field.name).or_else(|| {
        let camel =
            reader.form == Form::Json && field.name.contains(|c: char| c.is_ascii_uppercase());
        camel.then(|| named(&snake_case(&field.name))).flatten()
    });
    let at = at.ok_or_else(|| {
        let full = join(place.at, &field.name);
        let here = Place { at: &full, line: field.line, ..place };
        here.wrong(&format!("a field of {}", M::NAME), format!("`{}`", field.name))
    })?;
    Ok((at, &M::FIELDS[at]))
}

fn snake_case(name: &str) -> String {
    let mut snake = String::with_capacity(name.len() + 4);
    for c in name.chars() {
        if c.is_ascii_uppercase() {
            snake.push('_');
        }
        snake.push(c.to_ascii_lowercase());
    }
    snake
}

/// A message as proto3 JSON has it: every field but unset messages and choices not taken.
pub(super) fn write_message<M: Message>(message: &M) -> Json {
    let fields = M::FIELDS.iter().zip(message.slots());
    let written = fields.filter(|(info, slot)| info.choice.is_none() || slot.is_given());
    let json: Map<String, Json> =
        written.filter_map(|(info, slot)| Some((info.name.to_owned(), slot.write()?))).collect();
    Json::Object(json)
}

/// Whether no field says anything.
pub(super) fn is_blank<M: Message>(message: &M) -> bool {
    message.slots().iter().all(|slot| slot.says_nothing())
}

/// So that a `&mut &mut dyn Slot` is passed on as what it points to.
trait AsSlot {
    fn as_mut_slot(&mut self) -> &mut dyn Slot;
}

impl AsSlot for &mut dyn Slot {
    fn as_mut_slot(&mut self) -> &mut dyn Slot {
        &mut **self
    }
}

impl Value for String {
    fn kind() -> Kind {
        Kind::Text
    }

    fn read(_: &mut Reader, place: Place<'_>, raw: &RawValue) -> Read<Self> {
        match raw {
            RawValue::Text(text) => Ok(text.clone()),
            _ => Err(place.wrong("text in quotes", raw.show())),
        }
    }

    fn write(&self) -> Json {
        Json::from(self.as_str())
    }

    fn unset() -> Json {
        Json::from("")
    }
}

impl Value for bool {
    fn kind() -> Kind {
        Kind::Bool
    }

    fn read(reader: &mut Reader, place: Place<'_>, raw: &RawValue) -> Read<Self> {
        match (raw, reader.form) {
            (RawValue::Word(w), Form::Text) if matches!(w.as_str(), "true" | "True" | "t") => {
                Ok(true)
            }
            (RawValue::Word(w), Form::Text) if matches!(w.as_str(), "false" | "False" | "f") => {
                Ok(false)
            }
            (RawValue::Word(w), Form::Json) if w == "true" => Ok(true),
            (RawValue::Word(w), Form::Json) if w == "false" => Ok(false),
            (RawValue::Number(n), Form::Text) if integer(n) == Some(1) => Ok(true),
            (RawValue::Number(n), Form::Text) if integer(n) == Some(0) => Ok(false),
            _ => Err(place.wrong("`true` or `false`", raw.show())),
        }
    }

    fn write(&self) -> Json {
        Json::from(*self)
    }

    fn unset() -> Json {
        Json::from(false)
    }
}

/// JSON may quote numbers.
fn number<T: TryFrom<i128>>(
    reader: &Reader,
    place: Place<'_>,
    raw: &RawValue,
    least: &str,
) -> Read<T> {
    let number = match (raw, reader.form) {
        (RawValue::Number(number), _) | (RawValue::Text(number), Form::Json) => integer(number),
        _ => None,
    };
    let number = number.ok_or_else(|| place.wrong("an integer", raw.show()))?;
    T::try_from(number)
        .map_err(|_| place.wrong(if number < 0 { least } else { "a smaller integer" }, raw.show()))
}

/// A decimal, hexadecimal or (by its leading zero) octal integer of at most 64 bits.
fn integer(text: &str) -> Option<i128> {
    let (negative, digits) = match text.strip_prefix('-') {
        Some(digits) => (true, digits),
        None => (false, text),
    };
    let (radix, digits) = match digits {
        _ if digits.starts_with("0x") || digits.starts_with("0X") => (16, &digits[2..]),
        _ if digits.len() > 1 && digits.starts_with('0') => (8, &digits[1..]),
        _ => (10, digits),
    };
    let plain = !digits.is_empty() && digits.chars().all(|c| c.is_digit(radix));
    let magnitude = i128::from(u64::from_str_radix(digits, radix).ok().filter(|_| plain)?);
    Some(if negative { -magnitude } else { magnitude })
}

macro_rules! integers {
    ($($type:ty, $least:literal;)*) => {$(
        impl Value for $type {
            fn kind() -> Kind {
                Kind::Integer
            }

            fn read(reader: &mut Reader, place: Place<'_>, raw: &RawValue) -> Read<Self> {
                number(reader, place, raw, $least)
            }

            fn write(&self) -> Json {
                Json::from(*self)
            }

            fn unset() -> Json {
                Json::from(0)
            }
        }
    )*};
}

integers! {
    i32, "a larger integer";
    i64, "a larger integer";
    u32, "an integer of 0 or more";
    u64, "an integer of 0 or more";
}

/// A count: 32 bits in the protocol, whose sign differs from field to field.
impl Value for usize {
    fn kind() -> Kind {
        Kind::Integer
    }

    fn read(reader: &mut Reader, place: Place<'_>, raw: &RawValue) -> Read<Self> {
        let count: u32 = number(reader, place, raw, "an integer of 0 or more")?;
        Ok(count as usize)
    }

    fn write(&self) -> Json {
        Json::from(*self)
    }

    fn unset() -> Json {
        Json::from(0)
    }
}

/// Durations are microseconds, in every field that is one.
impl Value for Duration {
    fn kind() -> Kind {
        Kind::Integer
    }

    fn read(reader: &mut Reader, place: Place<'_>, raw: &RawValue) -> Read<Self> {
        <u64 as Value>::read(reader, place, raw).map(Duration::from_micros)
    }

    fn write(&self) -> Json {
        Json::from(u64::try_from(self.as_micros()).unwrap_or(u64::MAX))
    }

    fn unset() -> Json {
        Json::from(0)
    }
}

/// A 64-bit number that is written in quotes, as Triton writes some.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Quoted(
    /// The number.
    pub i64,
);

impl Value for Quoted {
    fn kind() -> Kind {
        Kind::Integer
    }

    fn read(reader: &mut Reader, place: Place<'_>, raw: &RawValue) -> Read<Self> {
        <i64 as Value>::read(reader, place, raw).map(Self)
    }

    fn write(&self) -> Json {
        Json::from(self.0.to_string())
    }

    fn unset() -> Json {
        Json::from("0")
    }
}

/// `1`, `1.5e3`, `1.5f`, `inf`, `nan` and their negatives; JSON may quote them.
fn float(reader: &Reader, place: Place<'_>, raw: &RawValue) -> Read<f64> {
    let text = match (raw, reader.form) {
        (RawValue::Number(n) | RawValue::Word(n), Form::Text) => {
            let digits = n.chars().any(|c| c.is_ascii_digit());
            n.strip_suffix(['f', 'F']).filter(|_| digits).unwrap_or(n)
        }
        (RawValue::Number(n) | RawValue::Text(n), Form::Json) => n.as_str(),
        _ => "",
    };
    let number = integer(text).map(|n| n as f64).or_else(|| text.parse().ok());
    number.ok_or_else(|| place.wrong("a number", raw.show()))
}

fn write_float(shortest: f64) -> Json {
    match serde_json::Number::from_f64(shortest) {
        Some(number) => Json::Number(number),
        None if shortest.is_nan() => Json::from("NaN"),
        None if shortest > 0.0 => Json::from("Infinity"),
        None => Json::from("-Infinity"),
    }
}

impl Value for f32 {
    fn kind() -> Kind {
        Kind::Number
    }

    fn read(reader: &mut Reader, place: Place<'_>, raw: &RawValue) -> Read<Self> {
        float(reader, place, raw).map(|n| n as Self)
    }

    fn write(&self) -> Json {
        // By its own shortest digits: those of the nearest f64 would be longer.
        write_float(self.to_string().parse().unwrap_or(f64::NAN))
    }

    fn unset() -> Json {
        Json::from(0.0)
    }
}

impl Value for f64 {
    fn kind() -> Kind {
        Kind::Number
    }

    fn read(reader: &mut Reader, place: Place<'_>, raw: &RawValue) -> Read<Self> {
        float(reader, place, raw)
    }

    fn write(&self) -> Json {
        write_float(*self)
    }

    fn unset() -> Json {
        Json::from(0.0)
    }
}

/// The name or the number of one of an enum's values: bare in text, quoted (in any case) in JSON.
pub(super) fn read_word<T: Copy>(
    reader: &Reader,
    place: Place<'_>,
    raw: &RawValue,
    names: &[(&'static str, i32, T)],
    expected: &str,
) -> Read<T> {
    let found = match (raw, reader.form) {
        (RawValue::Word(word), Form::Text) => names.iter().find(|(name, ..)| name == word),
        (RawValue::Text(word), Form::Json) => {
            names.iter().find(|(name, ..)| name.eq_ignore_ascii_case(word))
        }
        (RawValue::Number(n), _) => {
            names.iter().find(|(_, number, _)| integer(n) == Some(i128::from(*number)))
        }
        (_, Form::Text) => return Err(place.wrong("a name without quotes", raw.show())),
        (_, Form::Json) => return Err(place.wrong("a name in quotes", raw.show())),
    };
    found.map(|(.., value)| *value).ok_or_else(|| place.wrong(expected, raw.show_word()))
}

/// `` `A`, `B` or `C` ``.
pub(super) fn one_of(names: &[&str]) -> String {
    let quoted: Vec<_> = names.iter().map(|name| format!("`{name}`")).collect();
    match quoted.split_last() {
        Some((last, [])) => last.clone(),
        Some((last, others)) => format!("{} or {last}", others.join(", ")),
        None => String::new(),
    }
}

/// Triton's names and numbers; BYTES is `TYPE_STRING` there.
const DATA_TYPES: [(&str, i32, DataType); 14] = [
    ("TYPE_BOOL", 1, DataType::Bool),
    ("TYPE_UINT8", 2, DataType::Uint8),
    ("TYPE_UINT16", 3, DataType::Uint16),
    ("TYPE_UINT32", 4, DataType::Uint32),
    ("TYPE_UINT64", 5, DataType::Uint64),
    ("TYPE_INT8", 6, DataType::Int8),
    ("TYPE_INT16", 7, DataType::Int16),
    ("TYPE_INT32", 8, DataType::Int32),
    ("TYPE_INT64", 9, DataType::Int64),
    ("TYPE_FP16", 10, DataType::Fp16),
    ("TYPE_FP32", 11, DataType::Fp32),
    ("TYPE_FP64", 12, DataType::Fp64),
    ("TYPE_STRING", 13, DataType::Bytes),
    ("TYPE_BF16", 14, DataType::Bf16),
];

const DATA_TYPE_NAMES: [&str; 15] = {
    let mut names = ["TYPE_INVALID"; 15];
    let mut at = 0;
    while at < DATA_TYPES.len() {
        names[at + 1] = DATA_TYPES[at].0;
        at += 1;
    }
    names
};

impl Value for DataType {
    fn kind() -> Kind {
        Kind::Word(&DATA_TYPE_NAMES)
    }

    fn read(reader: &mut Reader, place: Place<'_>, raw: &RawValue) -> Read<Self> {
        read_word(reader, place, raw, &DATA_TYPES, "a data type such as `TYPE_FP32`")
    }

    fn write(&self) -> Json {
        let name = DATA_TYPES.iter().find(|(.., data_type)| data_type == self);
        Json::from(name.map_or("TYPE_INVALID", |(name, ..)| name))
    }

    fn unset() -> Json {
        Json::from("TYPE_INVALID")
    }
    fn is_unset(raw: &RawValue) -> bool {
        match raw {
            RawValue::Word(word) | RawValue::Text(word) => word == "TYPE_INVALID",
            RawValue::Number(number) => number == "0",
            RawValue::Message(_) | RawValue::List(_) => false,
        }
    }
}
