// One run of a module: values in, values out, and its end when it is no longer wanted.

#include <ATen/Functions.h>
#include <ATen/Parallel.h>
#include <ATen/core/dispatch/Dispatcher.h>
#include <ATen/ops/from_blob.h>
#include <c10/core/InferenceMode.h>
#include <c10/core/impl/LocalDispatchKeySet.h>
#include <torch/csrc/jit/runtime/graph_executor.h>
#include <torch/library.h>

#include <memory>
#include <utility>

#include "module_internal.h"
#include "text.h"

namespace {

// A key of libtorch's dispatcher that nothing else uses: while a run includes it, each operator comes by here
// first. This is how a run is ended early, which libtorch itself has no way to do.
constexpr auto WATCH = c10::DispatchKey::TESTING_ONLY_GenericMode;
thread_local const uint8_t* watched = nullptr;

void watch(const c10::OperatorHandle& op, c10::DispatchKeySet, torch::jit::Stack* stack) {
  if (watched != nullptr && __atomic_load_n(watched, __ATOMIC_RELAXED) != 0) {
    throw std::runtime_error("the run was cancelled");
  }
  c10::impl::ExcludeDispatchKeyGuard rest(WATCH);
  op.callBoxed(stack);
}

TORCH_LIBRARY_IMPL(_, TESTING_ONLY_GenericMode, library) {
  library.fallback(torch::CppFunction::makeFromBoxedFunction<&watch>());
}

struct Watch {
  explicit Watch(const uint8_t* flag) : guard(WATCH) { watched = flag; }
  ~Watch() { watched = nullptr; }
  c10::impl::IncludeDispatchKeyGuard guard;
};

// What a caller gave, until a tensor owns it.
struct Owned {
  const mz_leaf* leaf;
  explicit Owned(const mz_leaf* given) : leaf(given) {}
  Owned(Owned&& other) noexcept : leaf(std::exchange(other.leaf, nullptr)) {}
  Owned& operator=(Owned&&) = delete;
  ~Owned() {
    if (leaf != nullptr && leaf->release != nullptr) leaf->release(leaf->owner);
  }
};

std::string string_of(const mz_text& text) { return std::string(text.data, text.len); }

// A tensor over the caller's bytes, which it keeps for as long as anything refers to it.
at::Tensor tensor_of(Owned& owned, bool copy) {
  const mz_leaf& leaf = *owned.leaf;
  const auto options = at::TensorOptions().dtype(static_cast<at::ScalarType>(leaf.dtype));
  const at::IntArrayRef dims(leaf.dims, leaf.rank);
  auto release = [owner = leaf.owner, drop = leaf.release](void*) {
    if (drop != nullptr) drop(owner);
  };
  auto tensor = at::from_blob(const_cast<void*>(leaf.data), dims, std::move(release), options);
  owned.leaf = nullptr;
  return copy ? tensor.clone() : tensor;
}

c10::IValue strings_of(const mz_leaf& leaf) {
  c10::List<std::string> list;
  for (size_t i = 0; i < leaf.strings_len; ++i) list.push_back(string_of(leaf.strings[i]));
  return list;
}

// What `forward` takes as one number: every element says the same, or it is not one number.
c10::IValue number_of(const at::Tensor& tensor, int32_t kind, const std::string& name) {
  TORCH_CHECK(tensor.numel() > 0, "argument `", name, "` is one value; the input is empty");
  const auto flat = tensor.reshape({-1});
  TORCH_CHECK(
      flat.eq(flat[0]).all().item<bool>(), "argument `", name, "` is one value; the input has ", tensor.numel(),
      " that differ");
  const auto first = flat[0];
  if (kind == MZ_INT) return first.item<int64_t>();
  if (kind == MZ_FLOAT) return first.item<double>();
  return first.item<bool>();
}

c10::IValue argument_of(
    const Argument& argument, const mz_slot& slot, std::vector<Owned>& leaves, bool copy) {
  if (!slot.given) return *argument.fallback;
  Owned* owned = leaves.data() + slot.first;
  switch (argument.kind) {
    case MZ_TENSOR: return tensor_of(*owned, copy);
    case MZ_INT:
    case MZ_FLOAT:
    case MZ_BOOL: return number_of(tensor_of(*owned, false), argument.kind, argument.name);
    case MZ_STRINGS: return strings_of(*owned->leaf);
    case MZ_STRING:
      TORCH_CHECK(
          owned->leaf->strings_len == 1, "argument `", argument.name, "` is one string; the input has ",
          owned->leaf->strings_len);
      return string_of(owned->leaf->strings[0]);
    case MZ_TENSOR_LIST: {
      c10::List<at::Tensor> list;
      for (size_t i = 0; i < slot.count; ++i) list.push_back(tensor_of(owned[i], copy));
      return list;
    }
    case MZ_TENSOR_TUPLE: {
      std::vector<c10::IValue> elements;
      for (size_t i = 0; i < slot.count; ++i) elements.emplace_back(tensor_of(owned[i], copy));
      return c10::ivalue::Tuple::create(std::move(elements));
    }
    case MZ_TENSOR_DICT: {
      c10::Dict<std::string, at::Tensor> dict;
      for (size_t i = 0; i < slot.count; ++i) {
        auto key = string_of(owned[i].leaf->key);
        dict.insert(std::move(key), tensor_of(owned[i], copy));
      }
      return dict;
    }
    default: TORCH_CHECK(false, "argument `", argument.name, "` is of type ", argument.type);
  }
}

struct Part {
  std::string path;
  c10::IValue value;  // a tensor or a list of strings
};

// Flattens an answer; `path` is where `value` was.
void flatten(c10::IValue value, const std::string& path, std::vector<Part>& parts) {
  const auto at = [&](size_t index) { return path + "[" + std::to_string(index) + "]"; };
  if (value.isTensor()) {
    parts.push_back({path, std::move(value)});
  } else if (value.isTuple()) {
    const auto tuple = value.toTuple();
    for (size_t i = 0; i < tuple->elements().size(); ++i) flatten(tuple->elements()[i], at(i), parts);
  } else if (value.isGenericDict()) {
    for (const auto& entry : value.toGenericDict()) {
      TORCH_CHECK(entry.key().isString(), "the answer", path, " is a dict whose keys are not strings");
      const auto& key = entry.key().toStringRef();
      flatten(entry.value(), path.empty() ? key : path + "[" + key + "]", parts);
    }
  } else if (value.isString()) {
    c10::List<std::string> one;
    one.push_back(value.toStringRef());
    parts.push_back({path, std::move(one)});
  } else if (value.isInt()) {
    parts.push_back({path, at::full({1}, value.toInt(), at::kLong)});
  } else if (value.isDouble()) {
    parts.push_back({path, at::full({1}, value.toDouble(), at::kDouble)});
  } else if (value.isBool()) {
    parts.push_back({path, at::full({1}, value.toBool(), at::kBool)});
  } else if (value.isIntList()) {
    parts.push_back({path, at::tensor(value.toIntVector(), at::kLong)});
  } else if (value.isDoubleList()) {
    parts.push_back({path, at::tensor(value.toDoubleVector(), at::kDouble)});
  } else if (value.isList()) {
    if (value.type()->expectRef<c10::ListType>().getElementType()->kind() == c10::TypeKind::StringType) {
      parts.push_back({path, std::move(value)});
      return;
    }
    const auto list = value.toListRef();
    for (size_t i = 0; i < list.size(); ++i) flatten(list[i], at(i), parts);
  } else {
    TORCH_CHECK(
        false, "the answer", path, " is of type ", value.type()->annotation_str(),
        ", which cannot be served; it may be tensors, strings and numbers, in tuples, lists and dicts of them");
  }
}

void set_threads(int32_t threads) {
  // libtorch keeps the number by thread; setting it costs more than looking.
  static thread_local int32_t set = 0;
  if (threads <= 0 || threads == set) return;
  at::set_num_threads(threads);
  set = threads;
}

}  // namespace

struct mz_answer {
  std::vector<Part> parts;
};

struct mz_tensor {
  at::Tensor tensor;
};

mz_answer* mz_run(
    const mz_module* module,
    const mz_leaf* leaves,
    size_t leaves_len,
    const mz_slot* slots,
    const mz_run_options* options,
    mz_error* error) {
  std::vector<Owned> owned;
  owned.reserve(leaves_len);
  for (size_t i = 0; i < leaves_len; ++i) owned.emplace_back(leaves + i);
  return mz_guarded(error, [&]() -> mz_answer* {
    set_threads(options->threads);
    c10::InferenceMode inference(options->inference_mode);
    c10::AutoGradMode gradients(false);
    torch::jit::GraphOptimizerEnabledGuard optimize(options->optimize);
    std::vector<c10::IValue> stack;
    for (size_t i = 0; i < module->arguments.size(); ++i) {
      stack.push_back(argument_of(module->arguments[i], slots[i], owned, module->written[i]));
    }
    auto value = [&] {
      Watch watch(options->cancel);
      return module->module.get_method("forward")(std::move(stack));
    }();
    auto answer = std::make_unique<mz_answer>();
    flatten(std::move(value), "", answer->parts);
    return answer.release();
  });
}

void mz_free_answer(mz_answer* answer) { delete answer; }

size_t mz_parts(const mz_answer* answer) { return answer->parts.size(); }

mz_text mz_part_path(const mz_answer* answer, size_t index) {
  const auto& path = answer->parts[index].path;
  return {path.data(), path.size()};
}

bool mz_part_is_strings(const mz_answer* answer, size_t index) { return answer->parts[index].value.isList(); }

size_t mz_strings(const mz_answer* answer, size_t index) {
  return answer->parts[index].value.toListRef().size();
}

mz_text mz_string_at(const mz_answer* answer, size_t index, size_t string) {
  const auto& text = answer->parts[index].value.toListRef()[string].toStringRef();
  return {text.data(), text.size()};
}

bool mz_take_tensor(mz_answer* answer, size_t index, mz_view* view, mz_error* error) {
  return mz_guarded(error, [&] {
    auto tensor = std::move(answer->parts[index].value).toTensor();
    TORCH_CHECK(tensor.defined(), "it is a tensor without a value");
    TORCH_CHECK(
        tensor.layout() == at::kStrided && !tensor.is_quantized(), "it is a ", tensor.layout(), " tensor of ",
        tensor.scalar_type(), "; only dense tensors can be served");
    c10::InferenceMode inference;
    // The module may keep what it answered, and write into it on the next run.
    const bool kept = tensor.use_count() > 1 || tensor.storage().use_count() > 1;
    auto dense = tensor.resolve_conj().resolve_neg().to(at::kCPU).contiguous();
    if (kept && dense.is_alias_of(tensor)) dense = dense.clone();
    auto held = std::make_unique<mz_tensor>(mz_tensor{std::move(dense)});
    const auto& out = held->tensor;
    *view = {
        held.get(), static_cast<int32_t>(out.scalar_type()), static_cast<size_t>(out.dim()), out.sizes().data(),
        out.const_data_ptr(), out.nbytes()};
    held.release();
    return true;
  });
}

void mz_free_tensor(mz_tensor* tensor) { delete tensor; }
