//! Goal: what TorchScript can take and give is served by Triton's names, and what it cannot is
//! said. Method: small modules compiled from source.

#![allow(clippy::unwrap_used, reason = "a test that cannot set itself up must stop")]

mod common;

use std::sync::Arc;

use bytes::Bytes;
use common::{Spec, failure, floats, ints, open, run, source, strings, tensor, values, written};
use mizzen_runtime_api::{Device, InstanceOptions, Loader, RuntimeError};
use mizzen_torch::{TorchLoader, testing::compile};
use mizzen_types::{
    DataType::{self, Bool, Bytes as Text, Fp32, Fp64, Int64, Uint8},
    NamedTensor, Shape, Tensor,
};

const ROW: &[i64] = &[-1, 2];

#[test]
fn inputs_and_outputs_go_by_name_position_or_order() {
    let two = [("a", &[1.0, 2.0]), ("b", &[30.0, 40.0])];
    #[rustfmt::skip]
    let cases: &[(&str, &str, [&str; 2], [&str; 2])] = &[
        // what the case shows                 forward                                              
        //                       inputs a, b                  outputs a - b, a
        ("by argument, in any order",          "(self, b: Tensor, a: Tensor): return a - b, a",                            ["a", "b"],                  ["difference", "first"]),
        ("by position",                        "(self, b: Tensor, a: Tensor): return a, a - b",                            ["INPUT__1", "INPUT__0"],    ["OUTPUT__1", "OUTPUT__0"]),
        ("by the configuration's order",       "(self, x: Tensor, y: Tensor): return x - y, x",                            ["left", "right"],           ["p", "q"]),
        ("a dict in, by key, and a dict out",  "(self, d: Dict[str, Tensor]): return {'all': d['a'], 'less': d['a'] - d['b']}", ["a", "b"],             ["less", "all"]),
        ("a dict out, by position",            "(self, a: Tensor, b: Tensor): return {'less': a - b, 'all': a}",           ["a", "b"],                  ["OUTPUT__0", "OUTPUT__1"]),
        ("a list in and out",                  "(self, l: List[Tensor]): return [l[0] - l[1], l[0]]",                      ["x", "y"],                  ["p", "q"]),
        ("a list by position",                 "(self, l: List[Tensor]): return [l[1] - l[0], l[1]]",                      ["x__1", "x__0"],            ["p", "q"]),
        ("a tuple in",                         "(self, t: Tuple[Tensor, Tensor]): return t[0] - t[1], t[0]",               ["x", "y"],                  ["p", "q"]),
        ("containers among arguments",         "(self, a: Tensor, d: Dict[str, Tensor]): return a - d['k'], a",            ["a", "d[k]"],               ["p", "q"]),
        ("containers in containers",           "(self, a: Tensor, b: Tensor): return {'x': (a, a - b)}",                   ["a", "b"],                  ["x[1]", "x[0]"]),
        ("a default that is left out",         "(self, a: Tensor, c: float = 2.0, b: Optional[Tensor] = None):\n    if b is not None:\n        return (a - b) * c / 2.0, a\n    return a, a", ["a", "b"], ["p", "q"]),
        ("more parts than outputs",            "(self, a: Tensor, b: Tensor): return a - b, a, b",                         ["a", "b"],                  ["p", "q"]),
    ];
    for (shows, forward, inputs, outputs) in cases {
        let forward = forward.replace("): return", "):\n    return");
        let spec = |name: &&'static str| -> Spec<'static> { (*name, Fp32, ROW) };
        let made = written(
            &format!("def forward{forward}\n"),
            &inputs.each_ref().map(spec),
            &outputs.each_ref().map(spec),
        );
        let mut instance = open(&made.source);
        let given: Vec<_> = inputs
            .iter()
            .zip(two)
            .map(|(name, (_, values))| floats(name, &[1, 2], values))
            .collect();
        let answer =
            run(&mut *instance, &given).unwrap_or_else(|error| panic!("{shows}: {error:?}"));
        assert_eq!(values(&answer[0]), [-29.0, -38.0], "{shows}");
        assert_eq!(values(&answer[1]), [1.0, 2.0], "{shows}");
        assert_eq!(answer.iter().map(|a| &*a.name).collect::<Vec<_>>(), *outputs, "{shows}");
    }
}

#[test]
fn numbers_flags_and_strings_go_in_and_out() {
    let made = written(
        "
def forward(self, x: Tensor, n: int, scale: float, flip: bool, words: List[str], word: str):
    y = x * n * scale
    if flip:
        y = -y
    out: List[str] = []
    for w in words:
        out.append(w + word)
    return y, n + 1, scale, not flip, out, word, [1, 2], [0.5]
",
        &[
            ("x", Fp32, ROW),
            ("n", Int64, &[-1]),
            ("scale", Fp64, &[1]),
            ("flip", Bool, &[1]),
            ("words", Text, &[-1]),
            ("word", Text, &[1]),
        ],
        &[
            ("y", Fp32, ROW),
            ("more", Int64, &[1]),
            ("scaled", Fp64, &[1]),
            ("flop", Bool, &[1]),
            ("texts", Text, &[-1]),
            ("same", Text, &[1]),
            ("ints", Int64, &[2]),
            ("halves", Fp64, &[1]),
        ],
    );
    let mut instance = open(&made.source);
    let given = |n: &[i64]| {
        vec![
            floats("x", &[1, 2], &[1.0, 2.0]),
            ints("n", &[n.len()], n),
            tensor("scale", Fp64, &[1], 0.5f64.to_le_bytes().to_vec()),
            tensor("flip", Bool, &[1], vec![1]),
            strings("words", &["ab", "", "ü"]),
            strings("word", &["!"]),
        ]
    };
    // A batch that agrees is one value too.
    let answer = run(&mut *instance, &given(&[6, 6])).unwrap();
    assert_eq!(values(&answer[0]), [-3.0, -6.0]);
    assert_eq!(answer[1].tensor, ints("", &[1], &[7]).tensor);
    assert_eq!(answer[3].tensor.data()[..], [0]);
    assert_eq!(answer[4].tensor, strings("", &["ab!", "!", "ü!"]).tensor);
    assert_eq!(answer[5].tensor, strings("", &["!"]).tensor);
    assert_eq!(answer[6].tensor, ints("", &[2], &[1, 2]).tensor);
    let text = failure(&mut *instance, &given(&[6, 7]));
    assert!(text.contains("argument `n` is one value; the input has 2 that differ"), "{text}");
}

#[test]
fn every_type_goes_through_bit_by_bit() {
    for dtype in DataType::ALL.into_iter().filter(|dtype| *dtype != Text) {
        let spec: [Spec<'_>; 1] = [("x", dtype, &[-1])];
        let made = written(
            "def forward(self, x: Tensor):\n    return x.clone()\n",
            &spec,
            &[("y", dtype, &[-1])],
        );
        let bytes = (0..6 * dtype.size().unwrap()).map(|i| (i % 2) as u8).collect();
        let given = [tensor("x", dtype, &[6], bytes)];
        let answer = run(&mut *open(&made.source), &given).unwrap();
        assert_eq!(answer[0].tensor, given[0].tensor, "{dtype}");
    }
}

/// Bytes of which one can tell whether anyone still holds them.
fn watched(values: &[f32]) -> (NamedTensor, Arc<Vec<u8>>) {
    struct Owner(Arc<Vec<u8>>);
    impl AsRef<[u8]> for Owner {
        fn as_ref(&self) -> &[u8] {
            &self.0
        }
    }
    let data = Arc::new(values.iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<_>>());
    let bytes = Bytes::from_owner(Owner(data.clone()));
    let tensor = Tensor::new(Fp32, Shape::new([1, values.len()]).unwrap(), bytes).unwrap();
    (NamedTensor { name: "x".into(), tensor }, data)
}

#[test]
fn inputs_are_neither_copied_nor_written_into_nor_kept() {
    let x: [Spec<'_>; 1] = [("x", Fp32, ROW)];
    let y: [Spec<'_>; 1] = [("y", Fp32, ROW)];
    #[rustfmt::skip]
    let cases = [
        // what the case shows          forward                                   the answer    the
        // answer lies in the input
        ("handed through",              "return x",                               [1.0, 2.0],   true),
        ("a view of it",                "return x.view(1, 2)",                    [1.0, 2.0],   true),
        ("something new",               "return x + 1",                           [2.0, 3.0],   false),
        ("written into",                "return x.add_(1)",                       [2.0, 3.0],   false),
        ("a view written into",         "x[:, 0] = 5\n    return x",              [5.0, 2.0],   false),
        ("written into by a function",  "return self.spoil(x)",                   [0.0, 0.0],   false),
    ];
    for (shows, forward, want, shared) in cases {
        let code = format!(
            "def spoil(self, x: Tensor):\n    return x.mul_(0)\ndef forward(self, x: Tensor):\n    {forward}\n"
        );
        let made = written(&code, &x, &y);
        let mut instance = open(&made.source);
        let (input, data) = watched(&[1.0, 2.0]);
        let before = data.to_vec();
        let address = input.tensor.data().as_ptr();
        let answer = run(&mut *instance, &[input]).unwrap();
        assert_eq!(values(&answer[0]), want, "{shows}");
        assert_eq!(*data, before, "{shows}: the client's bytes");
        assert_eq!(answer[0].tensor.data().as_ptr() == address, shared, "{shows}");
        drop(answer);
        assert_eq!(Arc::strong_count(&data), 1, "{shows}: let go of");
    }
}

#[test]
fn inputs_are_let_go_of_when_a_run_fails() {
    let made = written(
        "def forward(self, x: Tensor, z: Tensor):\n    assert x.size(0) > 5, 'never ' + str(x.size(0))\n    return x\n",
        &[("x", Fp32, ROW), ("z", Fp32, ROW)],
        &[("y", Fp32, ROW)],
    );
    let mut instance = open(&made.source);
    let (input, data) = watched(&[1.0, 2.0]);
    let (mut second, other) = watched(&[1.0, 2.0]);
    second.name = "z".into();
    let inputs = [input, second];
    for _ in 0..3 {
        let text = failure(&mut *instance, &inputs);
        assert!(text.contains("never 1") && text.contains("TorchScript"), "{text}");
    }
    drop(inputs);
    assert_eq!((Arc::strong_count(&data), Arc::strong_count(&other)), (1, 1));
}

#[test]
fn what_a_module_keeps_is_neither_the_clients_nor_another_instances() {
    let made = written(
        "
def forward(self, x: Tensor):
    self.total.add_(x.sum())
    return self.total
",
        &[("x", Fp32, ROW)],
        &[("y", Fp32, &[1])],
    );
    let model = TorchLoader.load(&made.source).unwrap();
    let options = InstanceOptions { threads: 1, device: Device::Cpu };
    let (mut first, mut second) = (model.open(&options).unwrap(), model.open(&options).unwrap());
    let one = [floats("x", &[1, 2], &[1.0, 0.0])];
    let kept = run(&mut *first, &one).unwrap();
    assert_eq!(values(&run(&mut *first, &one).unwrap()[0]), [2.0]);
    assert_eq!(values(&kept[0]), [1.0], "the next run wrote elsewhere");
    assert_eq!(values(&run(&mut *second, &one).unwrap()[0]), [1.0], "its own total");

    let mut shared = made.source.clone();
    shared.parameters.insert("ENABLE_WEIGHT_SHARING".to_owned(), "true".to_owned());
    let model = TorchLoader.load(&shared).unwrap();
    let (mut first, mut second) = (model.open(&options).unwrap(), model.open(&options).unwrap());
    run(&mut *first, &one).unwrap();
    assert_eq!(values(&run(&mut *second, &one).unwrap()[0]), [2.0], "one module for both");
}

#[test]
fn a_model_that_does_not_fit_its_configuration_is_refused_with_both() {
    let (x, y): (Spec<'_>, Spec<'_>) = (("x", Fp32, ROW), ("y", Fp32, ROW));
    let plain = "def forward(self, x: Tensor):\n    return x\n";
    let number = "def forward(self, x: Tensor, n: List[int]):\n    return x\n";
    let words = "def forward(self, x: List[str]):\n    return x\n";
    let dict = "def forward(self, a: Tensor, d: Dict[str, Tensor]):\n    return a\n";
    let tuple = "def forward(self, t: Tuple[Tensor, Tensor]):\n    return t[0]\n";
    let none = "def backward(self, x: Tensor):\n    return x\n";
    #[rustfmt::skip]
    let cases: &[(&str, &str, &[Spec<'_>], &str)] = &[
        ("nothing declared",        plain,  &[],                              "the configuration has no `input`; a TorchScript module does not say what it takes, so config.pbtxt must: `forward` has the arguments `x: Tensor`"),
        ("an input too many",       plain,  &[x, ("z", Fp32, ROW)],           "input `z` has no argument"),
        ("an input too few",        "def forward(self, x: Tensor, z: Tensor):\n    return x\n", &[x], "argument `z: Tensor` of `forward` has no input"),
        ("a position twice",        plain,  &[("A__0", Fp32, ROW), ("B__0", Fp32, ROW)], "inputs `A__0` and `B__0` are both argument `x`"),
        ("a kind that is not had",  number, &[x, ("n", Int64, &[1])],         "input `n` (INT64) cannot be argument `n: List[int]`"),
        ("strings as a tensor",     plain,  &[("x", Text, &[-1])],            "PyTorch has no tensors of strings"),
        ("a tensor as strings",     words,  &[x],                             "it takes TYPE_STRING"),
        ("a dict as a whole",       dict,   &[("a", Fp32, ROW), ("d", Fp32, ROW)], "`d[0]`, or `d[key]` of a dict"),
        ("a tuple in part",         tuple,  &[x],                             "has 2 elements; 1 have inputs"),
        ("no forward",              none,   &[x],                             "no method `forward`"),
    ];
    for (shows, code, inputs, want) in cases {
        let made = written(code, inputs, &[y]);
        let error = TorchLoader.load(&made.source).map(drop).unwrap_err();
        assert!(matches!(error, RuntimeError::Load { .. }), "{shows}: {error}");
        assert!(error.to_string().contains(want), "{shows}: {error}");
    }
    let made = written(plain, &[x], &[]);
    let error = TorchLoader.load(&made.source).map(drop).unwrap_err().to_string();
    assert!(error.contains("the configuration has no `output`"), "{error}");
    let mut made = written(plain, &[x], &[y]);
    made.source.decoupled = true;
    let error = TorchLoader.load(&made.source).map(drop).unwrap_err().to_string();
    assert!(error.contains("decoupled"), "{error}");
}

#[test]
fn an_answer_that_does_not_fit_the_configuration_is_an_error_that_says_both() {
    let x: [Spec<'_>; 1] = [("x", Fp32, ROW)];
    #[rustfmt::skip]
    let cases: &[(&str, &str, Spec<'_>, &str)] = &[
        ("another type",     "x.double()",           ("y", Fp32, ROW),         "output `y` is FP64; the configuration says FP32"),
        ("another shape",    "x[0]",                 ("y", Fp32, ROW),         "output `y` has shape [2]; the configuration says [-1,2]"),
        ("too few parts",    "x, x",                 ("OUTPUT__2", Fp32, ROW), "output `OUTPUT__2` is part 2 of the module's answer, which has 2"),
        ("no such key",      "{'a': x, 'b': x}",     ("c", Fp32, ROW),         "output `c` is not in the module's answer, which has `a`, `b`"),
        ("sparse",           "x.to_sparse()",        ("y", Fp32, ROW),         "only dense tensors"),
        ("complex",          "torch.complex(x, x)",  ("y", Fp32, ROW),         "a type that cannot be served"),
        ("nothing",          "None",                 ("y", Fp32, ROW),         "NoneType"),
        ("numbered keys",    "{1: x}",               ("y", Fp32, ROW),         "keys are not strings"),
    ];
    for (shows, answer, output, want) in cases {
        let code = format!("def forward(self, x: Tensor):\n    return {answer}\n");
        let made = written(&code, &x, &[*output]);
        let mut instance = open(&made.source);
        let text = failure(&mut *instance, &[floats("x", &[1, 2], &[1.0, 2.0])]);
        assert!(text.contains(want), "{shows}: {text}");
    }
}

#[test]
fn libtorchs_own_words_come_back_without_its_stack() {
    let made = written(
        "def forward(self, x: Tensor):\n    return x.view(3, 5)\n",
        &[("x", Fp32, ROW)],
        &[("y", Fp32, ROW)],
    );
    let mut instance = open(&made.source);
    let input = [floats("x", &[1, 2], &[1.0, 2.0])];
    let text = failure(&mut *instance, &input);
    assert!(text.contains("shape '[3, 5]' is invalid for input of size 2"), "{text}");
    assert!(!text.contains("frame #"), "{text}");
    let text = failure(&mut *instance, &[tensor("x", Uint8, &[1, 2], vec![1, 2])]);
    assert!(text.contains("it takes FP32; got UINT8"), "{text}");
}

#[test]
fn settings_that_cannot_be_honoured_are_refused() {
    let made = written(
        "def forward(self, x: Tensor):\n    return x\n",
        &[("x", Fp32, ROW)],
        &[("y", Fp32, ROW)],
    );
    let load = |name: &str, value: &str| {
        let mut source = made.source.clone();
        source.parameters.insert(name.to_owned(), value.to_owned());
        TorchLoader.load(&source).map(drop).map_err(|error| error.to_string())
    };
    for (name, value) in
        [("INFERENCE_MODE", "false"), ("DISABLE_OPTIMIZED_EXECUTION", "true"), ("NUM_THREADS", "2")]
    {
        load(name, value).unwrap();
    }
    load("INTER_OP_THREAD_COUNT", "2").unwrap();
    load("INTER_OP_THREAD_COUNT", "2").unwrap();
    let error = load("INTER_OP_THREAD_COUNT", "3").unwrap_err();
    assert!(error.contains("once for all models, and 2 of them"), "{error}");
    let error = load("ENABLE_JIT_EXECUTOR", "false").unwrap_err();
    assert!(error.contains("`ENABLE_JIT_EXECUTOR`"), "{error}");
    let model = TorchLoader.load(&made.source).unwrap();
    let error = model.open(&InstanceOptions { threads: 1, device: Device::Cuda(0) }).err().unwrap();
    assert!(matches!(error, RuntimeError::Device { .. }), "{error}");
}

/// Threads of this process that the current one started, and itself: they have its name. libtorch has
/// more than one pool of them.
fn threads_by_this_one() -> usize {
    let own = std::fs::read_to_string("/proc/thread-self/comm").unwrap();
    let tasks = std::fs::read_dir("/proc/self/task").unwrap().flatten();
    let names = tasks.filter_map(|task| std::fs::read_to_string(task.path().join("comm")).ok());
    names.filter(|name| *name == own).count()
}

#[test]
fn settings_reach_the_module() {
    let mut made = written(
        "
def forward(self, x: Tensor):
    return (x + 1).is_inference(), torch.is_grad_enabled(), torch.ones([1000000]).sum()
",
        &[("x", Fp32, ROW)],
        &[("inference", Bool, &[1]), ("gradients", Bool, &[1]), ("million", Fp32, &[])],
    );
    let mut says = |parameters: &[(&str, &str)], threads| {
        let owned = parameters.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned()));
        made.source.parameters = owned.collect();
        let model = TorchLoader.load(&made.source).unwrap();
        let options = InstanceOptions { threads, device: Device::Cpu };
        let mut instance = model.open(&options).unwrap();
        // A thread for itself, as a server's instance has.
        std::thread::scope(|scope| {
            let run = || {
                let input = [floats("x", &[1, 2], &[1.0, 2.0])];
                let answer = run(&mut *instance, &input).unwrap();
                let flag = |index: usize| answer[index].tensor.data()[0] == 1;
                (threads_by_this_one() > 1, flag(0), flag(1))
            };
            std::thread::Builder::new()
                .name(format!("{threads} {}", parameters.len()))
                .spawn_scoped(scope, run)
                .unwrap()
                .join()
                .unwrap()
        })
    };
    assert_eq!(says(&[], 3), (true, true, false));
    assert_eq!(says(&[], 1), (false, true, false));
    assert_eq!(says(&[("DISABLE_OPTIMIZED_EXECUTION", "true")], 2), (true, true, false));
    assert_eq!(says(&[("INTRA_OP_THREAD_COUNT", "1")], 4), (false, true, false), "its own number");
    assert_eq!(says(&[("INFERENCE_MODE", "false"), ("NUM_THREADS", "2")], 1), (true, false, false));
}

/// Pages of this process in memory, in bytes.
fn resident() -> usize {
    let pages = std::fs::read_to_string("/proc/self/statm").unwrap();
    pages.split(' ').nth(1).unwrap().parse::<usize>().unwrap() * 4096
}

#[test]
fn a_thousand_loads_and_unloads_leave_nothing_behind() {
    let dir = tempfile::tempdir().unwrap();
    let code =
        "def forward(self, x: Tensor):\n    return torch.relu(torch.matmul(x, self.w)) + 1\n";
    let weights = vec![0.5; 2 * 20_000];
    compile(code, &[("w", &[2, 20_000], &weights)], &dir.path().join("model.pt")).unwrap();
    let source = source(dir.path(), &[("x", Fp32, ROW)], &[("y", Fp32, &[-1, 20_000])]);
    let cycle = || {
        let input = [floats("x", &[1, 2], &[1.0, 2.0])];
        assert_eq!(values(&run(&mut *open(&source), &input).unwrap()[0])[0], 2.5);
    };
    (0..200).for_each(|_| cycle());
    let before = resident();
    (0..1000).for_each(|_| cycle());
    let grown = resident().saturating_sub(before);
    // The weights alone would be 160 MB.
    assert!(grown < 16 << 20, "{grown} bytes more");
}
