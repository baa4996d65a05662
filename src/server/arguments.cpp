#include "arguments.h"

#include "datums.h"

namespace presence {

namespace {

void require(FunctionCallInfo fcinfo, int argument, const char *name)
{
    if (PG_ARGISNULL(argument))
        ereport(ERROR, (errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED), errmsg("%s must not be NULL", name)));
}

}  // namespace

text *required_text(FunctionCallInfo fcinfo, int argument, const char *name)
{
    require(fcinfo, argument, name);
    return PG_GETARG_TEXT_PP(argument);
}

text *session_argument(FunctionCallInfo fcinfo, int argument)
{
    return PG_ARGISNULL(argument) ? make_text("") : PG_GETARG_TEXT_PP(argument);
}

std::int64_t max_rows_argument(FunctionCallInfo fcinfo, int argument, std::int64_t without_limit)
{
    if (PG_ARGISNULL(argument))
        return without_limit;
    const int32 given = PG_GETARG_INT32(argument);
    if (given <= 0)
        ereport(ERROR,
                (errcode(ERRCODE_INVALID_PARAMETER_VALUE), errmsg("max_rows must be greater than zero: %d", given)));
    return given;
}

TextArray text_array_argument(FunctionCallInfo fcinfo, int argument)
{
    TextArray array;
    deconstruct_array(PG_GETARG_ARRAYTYPE_P(argument), TEXTOID, -1, false, TYPALIGN_INT, &array.values, &array.nulls,
                      &array.count);
    return array;
}

TextArray required_array(FunctionCallInfo fcinfo, int argument, const char *name)
{
    require(fcinfo, argument, name);
    return text_array_argument(fcinfo, argument);
}

text *required_element(const TextArray &array, int at, const char *name)
{
    if (array.nulls[at])
        ereport(ERROR, (errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
                        errmsg("%s must not contain NULL: element %d", name, at + 1)));
    return DatumGetTextPP(array.values[at]);
}

}  // namespace presence
