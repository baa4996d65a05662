// The type presence_id: stored like text, checked once where a value enters.
#include "../core/identifiers.h"
#include "datums.h"

namespace presence {

namespace {

[[noreturn]] void refuse(std::string_view id, IdFault fault)
{
    const char *const shown = excerpt(id);
    switch (fault) {
    case IdFault::too_long:
        ereport(ERROR, (errcode(ERRCODE_STRING_DATA_RIGHT_TRUNCATION),
                        errmsg("user_id, session_id or room \"%s\" is too long", shown),
                        errdetail("It has %zu bytes; an id has 1 to %zu.", id.size(), max_id_bytes),
                        errhint("Pass the application's own short id, such as an integer or a uuid.")));
        break;
    case IdFault::control_character:
        ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
                        errmsg("user_id, session_id or room \"%s\" contains a control character", shown),
                        errdetail("An id is text of 1 to %zu bytes without control characters.", max_id_bytes)));
        break;
    default:
        ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
                        errmsg("user_id, session_id or room must not be empty: \"\""),
                        errdetail("An id is text of 1 to %zu bytes without control characters.", max_id_bytes),
                        errhint("For a user's one unnamed session pass NULL as session_id.")));
    }
    pg_unreachable();
}

IdFault fault_of(std::string_view id) { return check_id(id, GetDatabaseEncoding() == PG_UTF8); }

void check(std::string_view id)
{
    const IdFault fault = fault_of(id);
    if (fault != IdFault::none)
        refuse(id, fault);
}

Datum checked(text *id)
{
    check(text_view(id));
    return PointerGetDatum(id);
}

}  // namespace

}  // namespace presence

PRESENCE_FUNCTION(presence_id_in)
{
    const char *const id = PG_GETARG_CSTRING(0);
    presence::check(id);
    PG_RETURN_TEXT_P(cstring_to_text(id));
}

PRESENCE_FUNCTION(presence_id_out) { PG_RETURN_CSTRING(text_to_cstring(PG_GETARG_TEXT_PP(0))); }

PRESENCE_FUNCTION(presence_id_recv)
{
    return presence::checked(DatumGetTextPP(DirectFunctionCall1(textrecv, PG_GETARG_DATUM(0))));
}

PRESENCE_FUNCTION(presence_id_send) { return DirectFunctionCall1(textsend, PG_GETARG_DATUM(0)); }

PRESENCE_FUNCTION(presence_is_id)
{
    PG_RETURN_BOOL(presence::fault_of(presence::text_view(PG_GETARG_TEXT_PP(0))) == presence::IdFault::none);
}

PRESENCE_FUNCTION(presence_id_from_text) { return presence::checked(PG_GETARG_TEXT_PP(0)); }

PRESENCE_FUNCTION(presence_id_from_bpchar)
{
    return presence::checked(DatumGetTextPP(DirectFunctionCall1(rtrim1, PG_GETARG_DATUM(0))));
}

PRESENCE_FUNCTION(presence_id_from_name) { return presence::checked(cstring_to_text(NameStr(*PG_GETARG_NAME(0)))); }

PRESENCE_FUNCTION(presence_id_from_uuid)
{
    PG_RETURN_TEXT_P(cstring_to_text(DatumGetCString(DirectFunctionCall1(uuid_out, PG_GETARG_DATUM(0)))));
}

PRESENCE_FUNCTION(presence_id_from_int2) { PG_RETURN_TEXT_P(cstring_to_text(psprintf("%d", PG_GETARG_INT16(0)))); }

PRESENCE_FUNCTION(presence_id_from_int4) { PG_RETURN_TEXT_P(cstring_to_text(psprintf("%d", PG_GETARG_INT32(0)))); }

PRESENCE_FUNCTION(presence_id_from_int8)
{
    PG_RETURN_TEXT_P(cstring_to_text(psprintf(INT64_FORMAT, PG_GETARG_INT64(0))));
}
