// script_line.h: where the user's program is.

#pragma once

#include <string>

namespace torch_mesh {

// The line that runs now, of the file that Python was started with:
// "train.py:41". Of the innermost call that is written there; "" if there is
// none. On a thread that runs no Python, as those of autograd, that of the
// thread which called `keep_script_thread` last.
//
// Takes the GIL. Some microseconds, by the depth of the calls.
std::string script_line();
// The calling thread runs the program. Needs the GIL.
void keep_script_thread();

}  // namespace torch_mesh
