// Statements that run as the owner of the extension name their tables by schema, and whoever owns that schema may rename
// it while a plan is made. The guard looks at the analysed query, before it is planned: every relation, function,
// operator and type in it must belong to the extension, to pg_cron, or to pg_catalog. No statement lives here.
#pragma once

#include "server.h"

namespace presence {

void install_owner_guard();

// The text that the guard watches for in this process, or null. Statements that a trigger runs meanwhile are not ours.
extern const char *guarded_statement;

// work() may analyse or plan sql, which is then refused (42501) if it found anything foreign.
template <typename Work>
pg_noinline void guarded(const char *sql, Work work)
{
    const char *const outer = guarded_statement;
    PG_TRY();
    {
        guarded_statement = sql;
        work();
    }
    PG_FINALLY();
    {
        guarded_statement = outer;
    }
    PG_END_TRY();
}

}  // namespace presence
