import js from "@eslint/js";
import globals from "globals";

export default [
  js.configs.recommended,
  // Functions given to evaluate() run in the page.
  { languageOptions: { globals: { ...globals.node, ...globals.browser } } },
];
