// One column of a row of the system catalogs, by the oid of the row.
#pragma once

#include "compat.h"

namespace presence {

// field: of the columns that are never NULL and stand before those of varying length. Where there is no such row: false,
// InvalidOid and the like.
template <typename Row, typename Field>
Field catalog_field(compat::SyscacheId catalog, Oid oid, Field Row::*field)
{
    HeapTuple row = SearchSysCache1(catalog, ObjectIdGetDatum(oid));
    if (!HeapTupleIsValid(row))
        return Field{};
    const Field value = reinterpret_cast<const Row *>(GETSTRUCT(row))->*field;
    ReleaseSysCache(row);
    return value;
}

}  // namespace presence
