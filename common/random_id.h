// Random names: short ones for jobs and workers, UUIDs for request ids. From the kernel's
// generator.
#pragma once

#include <string>

namespace mindforge {

// `length` characters of [a-z2-7], the first a letter: 8 of them are 38 bits.
std::string RandomId(int length = 8);

// A version 4 UUID.
std::string RandomUuid();

}  // namespace mindforge
