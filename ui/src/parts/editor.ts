/** The SQL editor: CodeMirror in a shadow root, where its styles are adopted sheets, which the content policy allows. */
import { autocompletion, completionKeymap } from '@codemirror/autocomplete';
import { defaultKeymap, history, historyKeymap } from '@codemirror/commands';
import { PostgreSQL, sql } from '@codemirror/lang-sql';
import { HighlightStyle, bracketMatching, syntaxHighlighting } from '@codemirror/language';
import { lintGutter, setDiagnostics } from '@codemirror/lint';
import { Compartment, EditorState } from '@codemirror/state';
import { EditorView, keymap, lineNumbers, placeholder } from '@codemirror/view';
import { tags } from '@lezer/highlight';

export interface Editor {
  set(text: string): void;
  /** Tables and their columns, for completion. */
  schema(tables: Record<string, string[]>): void;
  /** Marks a mistake at its line and column, both from 1; `null` removes the mark. */
  mark(mistake: { line: number; column: number; message: string } | null): void;
  focus(): void;
  destroy(): void;
}

const colors = HighlightStyle.define([
  { tag: tags.keyword, color: 'var(--accent)', fontWeight: '600' },
  { tag: [tags.string, tags.special(tags.string)], color: 'var(--good)' },
  { tag: [tags.number, tags.bool, tags.null], color: 'var(--s2)' },
  { tag: tags.comment, color: 'var(--soft)', fontStyle: 'italic' },
]);

const look = EditorView.theme({
  '&': { fontSize: '13.5px', color: 'var(--ink)', backgroundColor: 'var(--panel)' },
  '&.cm-focused': { outline: '2px solid var(--accent)', outlineOffset: '-2px' },
  '.cm-scroller': { fontFamily: 'var(--mono)', lineHeight: '1.55', minHeight: '132px', maxHeight: '40vh', overflow: 'auto' },
  '.cm-content': { caretColor: 'var(--ink)', padding: '8px 0' },
  '.cm-cursor': { borderLeftColor: 'var(--ink)' },
  '.cm-gutters': { backgroundColor: 'var(--panel)', color: 'var(--soft)', border: '0' },
  '.cm-placeholder': { color: 'var(--soft)' },
  '&.cm-focused > .cm-scroller > .cm-selectionLayer .cm-selectionBackground, ::selection': { backgroundColor: 'var(--accent-soft)' },
  '.cm-tooltip': { backgroundColor: 'var(--panel)', border: '1px solid var(--line)', borderRadius: '6px', color: 'var(--ink)' },
  '.cm-tooltip.cm-tooltip-autocomplete > ul': { fontFamily: 'var(--mono)' },
  '.cm-tooltip.cm-tooltip-autocomplete > ul > li[aria-selected]': { backgroundColor: 'var(--accent)', color: 'var(--accent-ink)' },
  '.cm-lintRange-error': { backgroundImage: 'none', textDecoration: 'underline wavy var(--bad)' },
  '.cm-lint-marker-error': { content: 'normal', width: '8px', height: '8px', borderRadius: '50%', background: 'var(--bad)' },
  '.cm-diagnostic-error': { borderLeft: '3px solid var(--bad)' },
});

export function editor(at: HTMLElement, text: string, label: string, run: () => void, changed: (text: string) => void): Editor {
  const root = at.shadowRoot ?? at.attachShadow({ mode: 'open' });
  const language = new Compartment();
  const view = new EditorView({
    root,
    parent: root,
    state: EditorState.create({
      doc: text,
      extensions: [
        // Before the defaults: there Mod-Enter inserts a line.
        keymap.of([{ key: 'Mod-Enter', run: () => (run(), true) }]),
        // Tab leaves the editor, as the keyboard expects of a page.
        keymap.of([...completionKeymap, ...defaultKeymap, ...historyKeymap]),
        lineNumbers(), history(), bracketMatching(), autocompletion(), lintGutter(),
        language.of(sql({ dialect: PostgreSQL })),
        syntaxHighlighting(colors), look, placeholder('SELECT …'),
        // Chromium replaces a selection with a span that has a style attribute, which the content policy refuses: done here instead.
        EditorView.domEventHandlers({
          beforeinput(event, view) {
            if (event.inputType !== 'insertText' || !event.data || view.composing || view.state.selection.main.empty) return false;
            event.preventDefault();
            view.dispatch(view.state.replaceSelection(event.data), { userEvent: 'input.type', scrollIntoView: true });
            return true;
          },
        }),
        EditorView.lineWrapping,
        EditorView.contentAttributes.of({ 'aria-label': label }),
        EditorView.updateListener.of((update) => update.docChanged && changed(update.state.doc.toString())),
      ],
    }),
  });
  // `tabindex` on what scrolls, for those who read without writing.
  view.scrollDOM.tabIndex = -1;
  return {
    set(next) {
      if (next !== view.state.doc.toString()) view.dispatch({ changes: { from: 0, to: view.state.doc.length, insert: next } });
    },
    schema(tables) {
      view.dispatch({ effects: language.reconfigure(sql({ dialect: PostgreSQL, schema: tables, upperCaseKeywords: true })) });
    },
    mark(mistake) {
      const doc = view.state.doc;
      if (!mistake) return view.dispatch(setDiagnostics(view.state, []));
      const line = doc.line(Math.min(Math.max(1, mistake.line), doc.lines));
      const from = Math.min(line.to, line.from + Math.max(0, mistake.column - 1));
      const word = doc.sliceString(from, line.to).match(/^[\w"]+/)?.[0].length ?? 1;
      view.dispatch(setDiagnostics(view.state, [{ from, to: Math.min(doc.length, from + word), severity: 'error', message: mistake.message }]));
    },
    focus: () => view.focus(),
    destroy: () => view.destroy(),
  };
}
