import { getCurrentInstance, getCurrentScope, onMounted, watch } from "vue";

/**
 * Begins once the component is in the page, so neither on the server nor in the midst of hydration; begins again when `source` has
 * another value, and ends with the scope.
 */
export function inPage<Value>(source: () => Value, begin: (value: Value) => (() => void) | undefined): void {
  const follow = () =>
    watch(
      source,
      (value, _before, onCleanup) => {
        const end = begin(value);
        if (end) onCleanup(end);
      },
      { immediate: true },
    );
  const scope = getCurrentScope();
  if (getCurrentInstance()) onMounted(() => void (scope?.active && scope.run(follow)));
  else if (typeof window !== "undefined") follow();
}
