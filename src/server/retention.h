// Forgetting what is older than the settings say: events, log, ended sessions and users who have long been gone.
#pragma once

#include "server.h"

namespace presence {

// A part of it, so that nothing stays locked for long however much there is; the next run goes on. Never waits for a lock.
// In one transaction, within owner work.
void forget_old();

}  // namespace presence
