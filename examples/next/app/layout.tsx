import type { ReactNode } from "react";

export const metadata = { title: "Who is online", icons: "data:," };

export default function Layout({ children }: { children: ReactNode }) {
  return (
    <html lang="en">
      <body style={{ colorScheme: "light dark", fontFamily: "system-ui, sans-serif", padding: "1rem" }}>
        {children}
      </body>
    </html>
  );
}
