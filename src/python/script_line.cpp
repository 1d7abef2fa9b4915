// script_line.cpp: walks the frames of a thread, by Python's stable functions.

#include "python/script_line.h"

#include <pybind11/pybind11.h>

#include <string_view>

namespace py = pybind11;

namespace torch_mesh {
namespace {

// Bytes of a file's name, at its end: the number stays whole in a message.
constexpr size_t kMaxName = 80;

PyThreadState* script_thread = nullptr;  // guarded by the GIL

// nullptr once it has ended.
PyThreadState* living_script_thread() {
  PyThreadState* thread =
      PyInterpreterState_ThreadHead(PyInterpreterState_Get());
  while (thread && thread != script_thread) {
    thread = PyThreadState_Next(thread);
  }
  return thread;
}

// New references, or none.
py::object innermost_frame(PyThreadState* thread) {
  return py::reinterpret_steal<py::object>(reinterpret_cast<PyObject*>(
      thread ? PyThreadState_GetFrame(thread) : nullptr));
}

PyFrameObject* as_frame(const py::object& frame) {
  return reinterpret_cast<PyFrameObject*>(frame.ptr());
}

std::string line_of(PyFrameObject* frame) {
  const auto code = py::reinterpret_steal<py::object>(
      reinterpret_cast<PyObject*>(PyFrame_GetCode(frame)));
  PyObject* file = reinterpret_cast<PyCodeObject*>(code.ptr())->co_filename;
  Py_ssize_t size = 0;
  const char* text = PyUnicode_AsUTF8AndSize(file, &size);
  if (!text) {
    PyErr_Clear();  // surrogates
    return "";
  }
  std::string_view name(text, static_cast<size_t>(size));
  name.remove_prefix(name.find_last_of('/') + 1);  // npos + 1 is 0
  if (name.size() > kMaxName) {
    name.remove_prefix(name.size() - kMaxName);
  }
  return std::string(name) + ":" + std::to_string(PyFrame_GetLineNumber(frame));
}

}  // namespace

void keep_script_thread() { script_thread = PyThreadState_Get(); }

std::string script_line() {
  if (!Py_IsInitialized()) {
    return "";
  }
  const py::gil_scoped_acquire gil;
  PyObject* main = PyImport_AddModule("__main__");  // borrowed
  if (!main) {
    PyErr_Clear();
    return "";
  }
  PyObject* globals = PyModule_GetDict(main);  // borrowed
  py::object frame = innermost_frame(PyThreadState_Get());
  if (!frame) {
    frame = innermost_frame(living_script_thread());
  }
  while (frame) {
    const auto of_frame =
        py::reinterpret_steal<py::object>(PyFrame_GetGlobals(as_frame(frame)));
    if (of_frame.ptr() == globals) {
      return line_of(as_frame(frame));
    }
    frame = py::reinterpret_steal<py::object>(
        reinterpret_cast<PyObject*>(PyFrame_GetBack(as_frame(frame))));
  }
  return "";
}

}  // namespace torch_mesh
