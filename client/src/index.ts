export * from "./presenceService.js";
export { acquirePresence, type PresenceLease } from "./core/sharedService.js";
export { HttpTransport, type HttpTransportOptions } from "./core/httpTransport.js";
export { RpcTransport, type RpcTransportOptions } from "./core/rpcTransport.js";
export { PresenceError, type FeedSink, type HeaderSource, type PresenceTransport } from "./core/transport.js";
export type * from "./core/types.js";
