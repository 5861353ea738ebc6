//! Which configured input is which argument of `forward`, and which part of its answer is which
//! output. Names decide, by the rules of Triton's PyTorch backend:
//!
//! 1. every input is named as an argument is (`x`), or as a place in one (`boxes[0]`,
//!    `options[mask]`);
//! 2. else every name ends in `__` and a position (`INPUT__0`);
//! 3. else the configuration's order is the arguments'.
//!
//! Where the only argument is a list, a tuple or a dict, the inputs are its elements: a dict's by
//! name, the others' by rule 2 or 3. Outputs go by rule 1 where the answer has names (a dict's
//! keys), then by 2, then by 3.

use mizzen_runtime_api::TensorSpec;
use mizzen_types::DataType;

use crate::ffi::{Argument, Kind, Slot};

/// Where the inputs go.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Plan {
    /// In the order of the leaves: which input, and its key if its argument is a dict.
    pub(crate) leaves: Vec<(usize, String)>,
    /// For each argument, which leaves are its.
    pub(crate) slots: Vec<Slot>,
}

/// A place that an input fills: an argument, and the element of it where it is a container.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Place {
    argument: usize,
    element: Element,
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Element {
    Whole,
    At(usize),
    Key(String),
}

impl Plan {
    /// Plans the inputs of a model.
    ///
    /// # Errors
    /// A sentence, if they do not fit the arguments.
    pub(crate) fn new(inputs: &[TensorSpec], arguments: &[Argument]) -> Result<Self, String> {
        if inputs.is_empty() {
            return Err(format!(
                "the configuration has no `input`; a TorchScript module does not say what it takes, \
                 so config.pbtxt must: `forward` has {}",
                signature(arguments)
            ));
        }
        let names: Vec<&str> = inputs.iter().map(|input| &*input.name).collect();
        let places = match arguments {
            [only] if only.is_container() => elements_of(only, &names),
            _ => by_name(&names, arguments)
                .or_else(|| by_position(&names, whole))
                .unwrap_or_else(|| (0..names.len()).map(whole).collect()),
        };
        let mut placed: Vec<(Place, usize)> = places.into_iter().zip(0..).collect();
        placed.sort();
        for ((place, input), next) in
            placed.iter().zip(placed.iter().skip(1).map(Some).chain([None]))
        {
            let Some(argument) = arguments.get(place.argument) else {
                return Err(format!(
                    "input `{}` has no argument: `forward` has {}",
                    names[*input],
                    signature(arguments)
                ));
            };
            if let Some((other, second)) = next
                && other == place
            {
                let (first, second) = (names[*input], names[*second]);
                return Err(format!(
                    "inputs `{first}` and `{second}` are both argument `{}`",
                    argument.name
                ));
            }
            fits(&inputs[*input], argument, &place.element)?;
        }
        let slots = arguments.iter().enumerate();
        let slots = slots.map(|(index, argument)| slot(index, argument, &placed));
        let slots = slots.collect::<Result<_, _>>()?;
        let leaf = |(place, input): (Place, usize)| match place.element {
            Element::Key(key) => (input, key),
            Element::Whole | Element::At(_) => (input, String::new()),
        };
        Ok(Self { leaves: placed.into_iter().map(leaf).collect(), slots })
    }
}

impl Argument {
    fn is_container(&self) -> bool {
        matches!(self.kind, Kind::TensorList | Kind::TensorTuple | Kind::TensorDict)
    }
}

fn whole(argument: usize) -> Place {
    Place { argument, element: Element::Whole }
}

fn elements_of(only: &Argument, names: &[&str]) -> Vec<Place> {
    let at = |index| Place { argument: 0, element: Element::At(index) };
    let by_key = |name: &&str| Place { argument: 0, element: Element::Key((*name).to_owned()) };
    if let Some(places) = by_name(names, std::slice::from_ref(only)) {
        return places;
    }
    match only.kind {
        Kind::TensorDict => names.iter().map(by_key).collect(),
        _ => by_position(names, at).unwrap_or_else(|| (0..names.len()).map(at).collect()),
    }
}

/// Rule 1; `None` if a name is no argument's.
fn by_name(names: &[&str], arguments: &[Argument]) -> Option<Vec<Place>> {
    let place = |name: &&str| {
        let (base, key) = match name.strip_suffix(']').and_then(|rest| rest.split_once('[')) {
            Some((base, key)) => (base, Some(key)),
            None => (*name, None),
        };
        let argument = arguments.iter().position(|argument| argument.name == base)?;
        let element = match (arguments[argument].kind, key) {
            (Kind::TensorDict, Some(key)) => Element::Key(key.to_owned()),
            (Kind::TensorList | Kind::TensorTuple, Some(key)) => Element::At(key.parse().ok()?),
            (Kind::TensorDict | Kind::TensorList | Kind::TensorTuple, None) | (_, Some(_)) => {
                return None;
            }
            (_, None) => Element::Whole,
        };
        Some(Place { argument, element })
    };
    names.iter().map(place).collect()
}

/// Rule 2; `None` if a name has no position.
fn by_position<T>(names: &[&str], place: impl Fn(usize) -> T) -> Option<Vec<T>> {
    names.iter().map(|name| position(name).map(&place)).collect()
}

fn position(name: &str) -> Option<usize> {
    let (_, digits) = name.split_once("__")?;
    digits.bytes().all(|digit| digit.is_ascii_digit()).then(|| digits.parse().ok())?
}

fn slot(index: usize, argument: &Argument, placed: &[(Place, usize)]) -> Result<Slot, String> {
    let first = placed.partition_point(|(place, _)| place.argument < index);
    let count = placed[first..].iter().take_while(|(place, _)| place.argument == index).count();
    let Argument { name, annotation, elements, .. } = argument;
    if count == 0 {
        let missing = || format!("argument `{name}: {annotation}` of `forward` has no input");
        return if argument.has_default { Ok(None) } else { Err(missing()) };
    }
    if argument.kind == Kind::TensorTuple && count != *elements {
        return Err(format!(
            "argument `{name}: {annotation}` has {elements} elements; {count} have inputs"
        ));
    }
    let gap = || {
        placed[first..first + count]
            .iter()
            .enumerate()
            .any(|(at, (place, _))| matches!(place.element, Element::At(element) if element != at))
    };
    if gap() {
        return Err(format!("the inputs of argument `{name}: {annotation}` leave out an element"));
    }
    Ok(Some(first..first + count))
}

/// Whether a place can hold what the configuration says of its input.
fn fits(input: &TensorSpec, argument: &Argument, element: &Element) -> Result<(), String> {
    let Argument { name, annotation, kind, .. } = argument;
    let strings = input.dtype == DataType::Bytes;
    let way_out = match (kind, element) {
        (Kind::Other, _) => {
            "an argument may be a tensor, a number, a string, List[str], or a list, a tuple or \
             Dict[str, Tensor] of tensors"
                .to_owned()
        }
        (_, Element::Whole) if argument.is_container() => {
            format!("its elements are inputs of their own: `{name}[0]`, or `{name}[key]` of a dict")
        }
        (Kind::String | Kind::Strings, _) if !strings => "it takes TYPE_STRING".to_owned(),
        (Kind::String | Kind::Strings, _) => return Ok(()),
        _ if strings => {
            "PyTorch has no tensors of strings: the argument must be List[str]".to_owned()
        }
        _ => return Ok(()),
    };
    let got = input.dtype;
    Err(format!(
        "input `{}` ({got}) cannot be argument `{name}: {annotation}`: {way_out}",
        input.name
    ))
}

fn signature(arguments: &[Argument]) -> String {
    if arguments.is_empty() {
        return "no arguments".to_owned();
    }
    let each: Vec<_> =
        arguments.iter().map(|a| format!("`{}: {}`", a.name, a.annotation)).collect();
    format!("the arguments {}", each.join(", "))
}

/// Which part of an answer each output is, given where the parts were in it.
///
/// # Errors
/// A sentence, if there is none.
pub(crate) fn outputs(names: &[&str], paths: &[String]) -> Result<Vec<usize>, String> {
    let by_path = |name: &&str| paths.iter().position(|path| path == name);
    if let Some(parts) = names.iter().map(by_path).collect::<Option<Vec<_>>>() {
        return Ok(parts);
    }
    let parts = by_position(names, |index| index);
    let keyed = paths.iter().any(|path| !path.is_empty() && !path.starts_with('['));
    if keyed && parts.is_none() {
        let absent = names.iter().find(|name| by_path(name).is_none()).unwrap_or(&"");
        let has: Vec<_> = paths.iter().map(|path| format!("`{path}`")).collect();
        return Err(format!(
            "output `{absent}` is not in the module's answer, which has {}",
            has.join(", ")
        ));
    }
    let parts = parts.unwrap_or_else(|| (0..names.len()).collect());
    match parts.iter().zip(names).find(|(part, _)| **part >= paths.len()) {
        Some((part, name)) => Err(format!(
            "output `{name}` is part {part} of the module's answer, which has {} (counted from 0)",
            paths.len()
        )),
        None => Ok(parts),
    }
}
