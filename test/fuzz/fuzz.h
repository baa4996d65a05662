// What the fuzz targets share. Each target is one function of bytes that must hold whatever they are; libFuzzer runs it by
// scripts/fuzz, and GoogleTest replays the corpus by test/core/corpus_test.cpp.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <span>

namespace presence::fuzz {

using Bytes = std::span<const std::uint8_t>;

// A property that does not hold ends the run.
inline void require(bool holds, const char *what)
{
    if (holds)
        return;
    std::fprintf(stderr, "does not hold: %s\n", what);
    std::abort();
}

// Takes values off the front; zeros when the bytes are used up.
class Input {
public:
    explicit Input(Bytes bytes) : left_(bytes) {}
    [[nodiscard]] bool empty() const { return left_.empty(); }
    [[nodiscard]] Bytes rest() const { return left_; }

    template <typename Number>
    Number take()
    {
        Number value{};
        const std::size_t size = std::min(sizeof value, left_.size());
        if (size > 0)
            std::memcpy(&value, left_.data(), size);
        left_ = left_.subspan(size);
        return value;
    }

private:
    Bytes left_;
};

void identifiers(Bytes bytes);
void heartbeat_file(Bytes bytes);
void heartbeat_shard(Bytes bytes);

}  // namespace presence::fuzz

// Each target's file defines it for libFuzzer as well.
#ifdef PRESENCE_LIBFUZZER
#define PRESENCE_FUZZ_TARGET(name)                                                                                     \
    extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t *data, std::size_t size)                                  \
    {                                                                                                                  \
        presence::fuzz::name({data, size});                                                                            \
        return 0;                                                                                                      \
    }
#else
#define PRESENCE_FUZZ_TARGET(name)
#endif
