/* What a call of a function costs by itself: the arguments of a heartbeat, and no work. */
#include "postgres.h"

#include "fmgr.h"

PG_MODULE_MAGIC;

PG_FUNCTION_INFO_V1(presence_noop);
Datum
presence_noop(PG_FUNCTION_ARGS)
{
    PG_RETURN_BOOL(PG_GETARG_DATUM(0) != 0 && PG_GETARG_DATUM(1) != 0);
}
