// The library's entry point: what has to happen when a process loads it, and nothing else.
#include "access.h"
#include "cache.h"
#include "compat.h"
#include "extension.h"
#include "feed.h"
#include "hooks.h"
#include "launcher.h"
#include "metrics.h"
#include "owner_guard.h"
#include "settings.h"
#include "shared.h"
#include "tombstones.h"
#include "typing.h"
#include "user_count.h"

#pragma GCC visibility push(default)
extern "C" {
PRESENCE_MODULE_MAGIC;
void _PG_init(void);
}
#pragma GCC visibility pop

extern "C" void _PG_init(void)
{
    presence::define_settings();
    presence::watch_catalog();
    presence::watch_roles();
    presence::watch_goodbyes();
    presence::watch_new_users();
    presence::watch_transactions();
    presence::watch_commits();
    presence::watch_metrics();
    presence::watch_typing();
    presence::install_owner_guard();
    if (process_shared_preload_libraries_in_progress) {
        presence::request_shared_memory();
        presence::register_launcher();
        presence::install_hooks();
    }
}
