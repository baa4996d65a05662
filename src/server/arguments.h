// What several SQL functions ask of their arguments, and say in the same words where they do not get it. A check that only
// one function makes lives with the function.
#pragma once

#include "server.h"

namespace presence {

text *required_text(FunctionCallInfo fcinfo, int argument, const char *name);
// NULL is the unnamed session.
text *session_argument(FunctionCallInfo fcinfo, int argument);

// How many rows the caller wants at most; without_limit where that is NULL.
std::int64_t max_rows_argument(FunctionCallInfo fcinfo, int argument, std::int64_t without_limit);

struct TextArray {
    Datum *values;
    bool *nulls;
    int count;
};
// Of an argument that is not NULL.
TextArray text_array_argument(FunctionCallInfo fcinfo, int argument);
TextArray required_array(FunctionCallInfo fcinfo, int argument, const char *name);
text *required_element(const TextArray &array, int at, const char *name);

}  // namespace presence
