// The library's entry point: what has to happen when a process loads it, and nothing else.
#include "extension.h"
#include "settings.h"

extern "C" {
PG_MODULE_MAGIC;
PGDLLEXPORT void _PG_init(void);
}

extern "C" void _PG_init(void)
{
    presence::define_settings();
    presence::watch_catalog();
}
