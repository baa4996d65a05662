// The worker of a database: numbers and sends committed events, ends sessions that have fallen silent or used up their
// grace, each at its time, and sees to it that the cache watches over everybody. Lives here: when what is done. How it is
// done lives in feed.h and expiry.h, who starts it in launcher.h.
#pragma once

#include "server.h"

namespace presence {

// The wait event of a process that has nothing to do.
std::uint32_t idle_event(const char *name);

}  // namespace presence
