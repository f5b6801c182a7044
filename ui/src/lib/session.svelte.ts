import type { Me } from '../api';

/** Who is at the keyboard, and what the role allows. The server decides; the console only does not offer what it would refuse. */
class Session {
  me = $state<Me | null>(null);
  edits = $derived(this.me?.role === 'editor' || this.me?.role === 'admin');
  admin = $derived(this.me?.role === 'admin');
}

export const session = new Session();
