import type { IncomingMessage, ServerResponse } from 'node:http';
export interface Mock {
  answer(request: IncomingMessage, response: ServerResponse): void;
  close(): void;
}
export function mock(options?: { claimed?: boolean; empty?: boolean }): Mock;
export function serve(folder: string, options?: { claimed?: boolean; empty?: boolean; port?: number; path?: string }): Promise<{ url: string; close(): Promise<void> }>;
