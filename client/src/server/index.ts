export * from "./handlers.js";
export { nodeAdapter } from "./nodeAdapter.js";
