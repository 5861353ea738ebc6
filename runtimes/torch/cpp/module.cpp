// A TorchScript module: read, checked, described.

#include "module_internal.h"

#include <ATen/Parallel.h>
#include <caffe2/serialize/inline_container.h>
#include <malloc.h>
#include <torch/csrc/jit/ir/alias_analysis.h>
#include <torch/csrc/jit/passes/inliner.h>
#include <torch/csrc/jit/serialization/import.h>
#include <torch/csrc/jit/serialization/import_read.h>
#include <torch/version.h>

#include <unordered_set>

#include "text.h"

namespace {

// libtorch believes the sizes that a file claims for its tensors. This holds them to the memory that was
// filled, so that no tensor reads beyond it.
void check_tensor(const at::Tensor& tensor) {
  if (!tensor.defined() || tensor.layout() != at::kStrided || !tensor.has_storage()) return;
  const auto& storage = tensor.storage();
  // What a file holds is read into memory of its own, from malloc.
  auto* data = const_cast<void*>(storage.data());
  const size_t held = data == nullptr ? 0 : malloc_usable_size(data);
  TORCH_CHECK(
      storage.nbytes() <= held, "a tensor claims ", storage.nbytes(), " bytes of data; the file holds ", held);
  __int128 last = tensor.storage_offset();
  bool empty = false, negative = last < 0;
  for (int64_t i = 0; i < tensor.dim(); ++i) {
    const int64_t size = tensor.sizes()[i], stride = tensor.strides()[i];
    negative |= size < 0 || stride < 0;
    empty |= size == 0;
    if (size > 0) last += static_cast<__int128>(size - 1) * stride;
  }
  const auto end = (last + 1) * static_cast<__int128>(tensor.element_size());
  TORCH_CHECK(
      !negative && (empty || end <= static_cast<__int128>(storage.nbytes())),
      "a tensor of shape ", tensor.sizes(), " reaches beyond its ", storage.nbytes(), " bytes of data");
}

void check_value(const c10::IValue& value, std::unordered_set<const void*>& seen) {
  if (value.isTensor()) return check_tensor(value.toTensor());
  if (value.isPtrType() && !seen.insert(value.internalToPointer()).second) return;
  if (value.isTuple()) {
    for (const auto& element : value.toTupleRef().elements()) check_value(element, seen);
  } else if (value.isList()) {
    for (const auto& element : value.toListRef()) check_value(element, seen);
  } else if (value.isGenericDict()) {
    for (const auto& entry : value.toGenericDict()) check_value(entry.value(), seen);
  } else if (value.isObject()) {
    for (const auto& slot : value.toObjectRef().slots()) check_value(slot, seen);
  }
}

// The code's constants are compiled into it, out of reach; so they are read once more.
void check_constants(const std::string& path) {
  caffe2::serialize::PyTorchStreamReader reader(path);
  if (!reader.hasRecord("constants.pkl")) return;
  const auto constants = torch::jit::readArchiveAndTensors(
      "constants", "", "", std::nullopt, std::nullopt, at::Device(at::kCPU), reader);
  std::unordered_set<const void*> seen;
  check_value(constants, seen);
}

bool all_tensors(const c10::TupleType& type) {
  for (const auto& element : type.elements()) {
    if (element->kind() != c10::TypeKind::TensorType) return false;
  }
  return !type.elements().empty();
}

int32_t kind_of(const c10::TypePtr& type, size_t* elements) {
  switch (type->kind()) {
    case c10::TypeKind::OptionalType:
      return kind_of(type->expectRef<c10::OptionalType>().getElementType(), elements);
    case c10::TypeKind::TensorType: return MZ_TENSOR;
    case c10::TypeKind::IntType: return MZ_INT;
    case c10::TypeKind::FloatType: return MZ_FLOAT;
    case c10::TypeKind::BoolType: return MZ_BOOL;
    case c10::TypeKind::StringType: return MZ_STRING;
    case c10::TypeKind::ListType:
      switch (type->expectRef<c10::ListType>().getElementType()->kind()) {
        case c10::TypeKind::TensorType: return MZ_TENSOR_LIST;
        case c10::TypeKind::StringType: return MZ_STRINGS;
        default: return MZ_OTHER;
      }
    case c10::TypeKind::TupleType: {
      const auto& tuple = type->expectRef<c10::TupleType>();
      *elements = tuple.elements().size();
      return all_tensors(tuple) ? MZ_TENSOR_TUPLE : MZ_OTHER;
    }
    case c10::TypeKind::DictType: {
      const auto& dict = type->expectRef<c10::DictType>();
      const bool fits = dict.getKeyType()->kind() == c10::TypeKind::StringType &&
          dict.getValueType()->kind() == c10::TypeKind::TensorType;
      return fits ? MZ_TENSOR_DICT : MZ_OTHER;
    }
    default: return MZ_OTHER;
  }
}

// Which arguments the code may write into, so that what a client sent is not written into for it. A container's
// elements are beyond what the analysis tells apart: they count as written.
std::vector<bool> written_arguments(const torch::jit::Method& forward, size_t arguments) {
  std::vector<bool> written(arguments, true);
  try {
    auto graph = forward.graph()->copy();
    torch::jit::Inline(*graph);
    torch::jit::AliasDb aliases(graph);
    for (size_t i = 0; i < arguments; ++i) {
      const auto* input = graph->inputs().at(i + 1);  // the first is the module itself
      const bool tensor = input->type()->kind() == c10::TypeKind::TensorType;
      written[i] = !tensor || aliases.hasWriters(input);
    }
  } catch (const std::exception&) {
    written.assign(arguments, true);  // code that cannot be analysed gets copies
  }
  return written;
}

mz_module* describe(torch::jit::Module loaded) {
  const auto forward = loaded.find_method("forward");
  TORCH_CHECK(forward.has_value(), "the module has no method `forward`");
  auto module = std::make_unique<mz_module>(mz_module{std::move(loaded), {}, {}});
  const auto& schema = forward->function().getSchema();
  for (size_t i = 1; i < schema.arguments().size(); ++i) {
    const auto& argument = schema.arguments()[i];
    Argument known{argument.name(), argument.type()->annotation_str(), MZ_OTHER, 0, argument.default_value()};
    known.kind = kind_of(argument.type(), &known.elements);
    module->arguments.push_back(std::move(known));
  }
  module->written = written_arguments(*forward, module->arguments.size());
  return module.release();
}

mz_text text_of(const std::string& text) { return {text.data(), text.size()}; }

}  // namespace

const char* mz_version() { return TORCH_VERSION; }

void mz_free_text(char* text) { free(text); }

int32_t mz_set_interop_threads(int32_t threads) {
  try {
    at::set_num_interop_threads(threads);
    return 0;
  } catch (const std::exception&) {
    return at::get_num_interop_threads();
  }
}

mz_module* mz_load(mz_text path, mz_error* error) {
  return mz_guarded(error, [&]() -> mz_module* {
    const std::string file(path.data, path.len);
    check_constants(file);
    auto loaded = torch::jit::load(file, at::Device(at::kCPU));
    std::unordered_set<const void*> seen;
    check_value(loaded._ivalue(), seen);
    return describe(std::move(loaded));
  });
}

void mz_free_module(mz_module* module) { delete module; }

size_t mz_arguments(const mz_module* module) { return module->arguments.size(); }

mz_argument mz_argument_at(const mz_module* module, size_t index) {
  const auto& argument = module->arguments[index];
  return {
      text_of(argument.name), text_of(argument.type), argument.kind, argument.fallback.has_value(),
      argument.elements};
}
