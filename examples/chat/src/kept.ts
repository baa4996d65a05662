/** Something that a tab keeps over a reload; where the browser allows none of that, until then. */
export function kept<Value>(name: string, initial: Value) {
  return {
    read(): Value {
      try {
        return (JSON.parse(sessionStorage.getItem(name) ?? "null") as Value | null) ?? initial;
      } catch {
        return initial;
      }
    },
    write(value: Value): void {
      try {
        sessionStorage.setItem(name, JSON.stringify(value));
      } catch {
        // kept by the page alone
      }
    },
  };
}
