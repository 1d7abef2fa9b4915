// numpy.cpp: Tensor.numpy, for global tensors too.

#include "python/numpy.h"

#include <torch/csrc/autograd/python_variable.h>
#include <torch/csrc/utils/pybind.h>

#include <torch_mesh/tensor.h>

namespace py = pybind11;

namespace torch_mesh {
namespace {

// Both live as long as the process does.
PyCFunctionWithKeywords torchs_own = nullptr;
PyObject* of_global = nullptr;

// A plain tensor costs one look at its keys: no frame of Python.
PyObject* numpy(PyObject* self, PyObject* args, PyObject* kwargs) {
  const at::Tensor& tensor = THPVariable_Unpack(self);
  if (!is_global(tensor) ||
      tensor.unsafeGetTensorImpl()->is_python_dispatch()) {
    return torchs_own(self, args, kwargs);
  }
  PyObject* method = PyMethod_New(of_global, self);
  if (method == nullptr) {
    return nullptr;
  }
  PyObject* array = PyObject_Call(method, args, kwargs);
  Py_DECREF(method);
  return array;
}

// A method like `own`, which is torch's, that asks `function` about global
// tensors.
py::object numpy_method(const py::object& own, const py::function& function) {
  if (!Py_IS_TYPE(own.ptr(), &PyMethodDescr_Type)) {
    throw py::type_error("numpy_method: Tensor.numpy is no method of C");
  }
  auto* descriptor = reinterpret_cast<PyMethodDescrObject*>(own.ptr());
  const PyMethodDef& torchs = *descriptor->d_method;
  if (torchs.ml_flags != (METH_VARARGS | METH_KEYWORDS)) {
    throw py::type_error("numpy_method: Tensor.numpy takes other arguments");
  }
  torchs_own = reinterpret_cast<PyCFunctionWithKeywords>(
      reinterpret_cast<void (*)()>(torchs.ml_meth));
  of_global = function.inc_ref().ptr();
  static PyMethodDef ours = torchs;
  ours.ml_meth =
      reinterpret_cast<PyCFunction>(reinterpret_cast<void (*)()>(&numpy));
  return py::reinterpret_steal<py::object>(
      PyDescr_NewMethod(PyDescr_TYPE(descriptor), &ours));
}

}  // namespace

void bind_numpy(py::module_& m) {
  m.def("numpy_method", &numpy_method, py::arg("own"), py::arg("of_global"));
}

}  // namespace torch_mesh
