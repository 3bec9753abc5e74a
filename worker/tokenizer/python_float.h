// A float64 as Python's repr() and json.dumps() write it.
#pragma once

#include <string>

namespace mindforge {

// The fewest digits that read back the same; an exponent below 1e-4 and from 1e16 on.
std::string PythonFloat(double value);

}  // namespace mindforge
